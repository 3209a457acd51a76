"""What can be seen of runs: lists, curves, history, forecasts, differences."""
