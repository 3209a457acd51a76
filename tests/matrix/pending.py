"""Rows that are not yet what they are to be, by the place in the table where they stand."""

from __future__ import annotations

PENDING: frozenset[str] = frozenset()
"""Names of rows that are expected to fail; one that does not fails the tests."""
