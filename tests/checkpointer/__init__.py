"""Tests of what a training loop holds."""
