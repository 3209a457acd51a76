"""Records of courses that never ran, with known answers."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

STEP = 1.0
WARM_STEPS = 2


def record(
    steps: list[float], saves: list[tuple[int, float, float]], *, peak: int = 0, state_bytes: int = 1_000_000
) -> dict[str, Any]:
    """A course of steps of these lengths, with saves of (step, blocked, durable after), all of which count."""
    boundaries = [0.0, *accumulate(steps)]
    return {
        "boundaries": boundaries,
        "cpu": [2 * time for time in boundaries],
        "saves": [
            {
                "step": step,
                "counts": True,
                "began": boundaries[step],
                "returned": boundaries[step] + blocked,
                "held": 0.0,
                "claimed": boundaries[step] + durable,
                "durable": boundaries[step] + durable,
                "size": state_bytes,
            }
            for step, blocked, durable in saves
        ],
        "peak": peak,
        "state_bytes": state_bytes,
        "warm_steps": WARM_STEPS,
        "about": "a model",
        "load": [0.5, 1.0],
    }


def quiet(count: int) -> list[float]:
    """Undisturbed steps."""
    return [STEP] * count
