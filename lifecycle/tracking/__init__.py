"""MLflow: what is here appears there, and what begins there comes in, without being in the way."""
