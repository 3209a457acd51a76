"""The command line: parses arguments, calls operations, renders what they return."""
