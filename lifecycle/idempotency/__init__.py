"""Writes that may be repeated: a key that was used stands for what it did the first time."""
