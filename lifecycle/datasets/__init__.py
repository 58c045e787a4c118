"""What runs worked on: a data set is known by its name and the digest of its content."""
