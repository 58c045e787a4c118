"""What the service withstands; README.md has the figures and the commands."""
