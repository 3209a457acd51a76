"""Evaluation by others: a command is run for each checkpoint, and the metrics that it prints are recorded."""
