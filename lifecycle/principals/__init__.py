"""Who there is: what they have been granted, and how they prove who they are."""
