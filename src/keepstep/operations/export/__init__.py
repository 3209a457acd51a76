"""Leaving the run: which checkpoint, which of its files, where to, and what is said of it. Without torch."""
