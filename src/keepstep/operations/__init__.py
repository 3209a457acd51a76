"""What can be done with a run: each operation returns data and never prints."""
