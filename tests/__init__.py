"""Tests, by the same nouns as the code."""
