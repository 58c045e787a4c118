"""What we are trying: an experiment gathers runs under one name."""
