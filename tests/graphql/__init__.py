"""Over HTTP, against the real database."""
