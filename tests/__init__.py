"""Tests of holdfast; they mirror src."""
