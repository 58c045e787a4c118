"""One attempt: a run with its parameters, metrics, log and artifacts."""
