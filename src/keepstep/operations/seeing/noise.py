"""Which of the names that a trainer logs are measured along the way, and which are said beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NOISE = ("_runtime", "_per_second", "_flops", "_time")
"""Endings of what trainers log beside every evaluation; a list is not the place for it."""
_COUNTERS = ("epoch", "total_flos", "num_input_tokens_seen")
_SUMMARY = "train_"


def courses(names: Sequence[str], totals: Mapping[str, int]) -> tuple[str, ...]:
    """Those of the names whose values make a curve, in their order; `totals` are the values that each has.

    No timings, no counters, and none of the sums that a Trainer logs once at its end (`train_loss`).
    """
    return tuple(
        name
        for name in names
        if not name.endswith(NOISE)
        and name not in _COUNTERS
        and not (name.startswith(_SUMMARY) and totals.get(name, 0) < 2)
    )
