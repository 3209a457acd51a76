"""Tests of stock-format files written and read at disk speed."""
