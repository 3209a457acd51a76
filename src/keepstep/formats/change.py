"""What changed between two tensors, as sums over their elements that add up piece by piece."""

from __future__ import annotations

from math import inf, sqrt
from typing import NamedTuple


class Sums(NamedTuple):
    """Sums over elements: how many, how many have the same bits, squares of the values before and of their change, the
    largest change, and how many were, and are, no finite numbers. These are in no norm.
    """

    elements: int = 0
    unchanged: int = 0
    squares: float = 0.0
    change: float = 0.0
    largest: float = 0.0
    non_finite_before: int = 0
    non_finite_after: int = 0

    def and_(self, other: Sums) -> Sums:
        """The sums over these elements and others."""
        return Sums(
            self.elements + other.elements,
            self.unchanged + other.unchanged,
            self.squares + other.squares,
            self.change + other.change,
            max(self.largest, other.largest),
            self.non_finite_before + other.non_finite_before,
            self.non_finite_after + other.non_finite_after,
        )

    @property
    def relative(self) -> float:
        """The norm of the change by the norm of what was there; infinite where that was zero."""
        if not self.change:
            return 0.0
        return sqrt(self.change / self.squares) if self.squares else inf

    @property
    def share_unchanged(self) -> float:
        """The share of elements that have the same bits, from 0 to 1."""
        return self.unchanged / self.elements if self.elements else 1.0

    @property
    def same(self) -> bool:
        """True where not one element has other bits."""
        return self.unchanged == self.elements
