"""Tests of one run directory."""
