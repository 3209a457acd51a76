"""Tests of the operations: what they return, never what is printed."""
