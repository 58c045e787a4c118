"""MLflow, with real servers of both lines that there are, and with what goes wrong on the way."""
