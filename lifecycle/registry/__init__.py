"""What came out: models and their versions."""
