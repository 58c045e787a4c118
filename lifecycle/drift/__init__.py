"""Is it still right? What monitors observed, and what became of it."""
