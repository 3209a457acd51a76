"""Tests of the ground: model and units."""
