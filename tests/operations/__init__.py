"""The service as those who run it meet it: commands, processes, signals, logs."""
