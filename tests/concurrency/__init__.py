"""What happens at once: races as races, on the real database."""
