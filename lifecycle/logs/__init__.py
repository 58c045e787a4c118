"""Log lines of whatever writes some: runs and deployments."""
