"""Tests of checkpoints in one store, and of crashes inside a commit."""
