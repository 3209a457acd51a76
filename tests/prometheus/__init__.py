"""Tests of metrics for Prometheus."""
