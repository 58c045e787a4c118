"""Who is asking. What they may do joins here with sign-in."""
