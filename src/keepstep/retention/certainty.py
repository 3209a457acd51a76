"""How sure it is that the best is the best: what chance adds to a metric, told from its own course. Never a rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keepstep.model import Checkpoint
from keepstep.retention.metrics import Metric

FEWEST_EVALUATIONS = 8
"""Evaluations below which a course says nothing of its noise."""
_MEDIAN_TO_SIGMA = 0.6745 * math.sqrt(6)
"""Median of the absolute value of a - 2b + c, for independent normal values of standard deviation 1."""
_TIE = 2 * math.sqrt(2)
"""Standard deviations of the noise by which two values differ by chance in one of twenty cases."""
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Certainty:
    """The best checkpoint's lead over the next, in the metric's unit (None: there is no other), against the noise.

    `noise` is the standard deviation that chance adds to each evaluation, in the metric's unit; the true one is larger
    where chance is alike in neighbours. `ties` are the steps of other checkpoints that can't be told from the best, the
    best first; `tied` of all `evaluations` of the course can't be, the best's own included.
    """

    name: str
    step: int
    lead: float | None
    noise: float
    ties: tuple[int, ...]
    evaluations: int
    tied: int

    @property
    def difference(self) -> float:
        """By how much two neighbouring evaluations differ by chance: the standard deviation of their difference."""
        return math.sqrt(2) * self.noise

    def describe(self) -> str:
        """`checkpoint-400 leads by 0.002; evaluations next to each other differ by 0.011: a tie with 300 and 500`."""
        ahead = f"{self.name} leads by {self.lead:.2g}" if self.lead is not None else f"{self.name} is the only one"
        text = f"{ahead}; evaluations next to each other differ by {self.difference:.2g}"
        if self.ties:
            text += f": a tie with {_listed(self.ties)}"
        elif self.lead is not None:
            text += ": clear of the others"
        if self.tied > len(self.ties) + 1:
            text += f"; {self.tied - 1} of {self.evaluations - 1} other evaluations are as good"
        return text

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; `lead`, `noise` and `difference` in the metric's unit."""
        return {
            "step": self.step,
            "lead": self.lead,
            "noise": self.noise,
            "difference": self.difference,
            "ties": list(self.ties),
            "evaluations": self.evaluations,
            "tied_evaluations": self.tied,
            "text": self.describe(),
        }


def noise_of(values: Sequence[float]) -> float | None:
    """Standard deviation of what chance adds to each of these values, which come in order of step; None for too few.

    The median of the absolute second differences, by what it is for normal noise of 1: a trend falls out of second
    differences, and one jump, of three of them, hardly moves the median. What is not finite is left out.
    """
    found = [value for value in values if math.isfinite(value)]
    if len(found) < FEWEST_EVALUATIONS:
        return None
    bends = [abs(a - 2 * b + c) for a, b, c in zip(found, found[1:], found[2:], strict=False)]
    import statistics  # not for every command that plans

    sigma = statistics.median(bends) / _MEDIAN_TO_SIGMA
    return sigma if math.isfinite(sigma) else None


def certainty_of(values: Sequence[float], ranked: Sequence[Checkpoint], metric: Metric) -> Certainty | None:
    """How sure the first of these checkpoints, ranked by the metric, is the best of them.

    `values` are those of all evaluations of the course, in order of step. None where there are too few of them, or
    nothing is ranked.
    """
    sigma = noise_of(values)
    scores = [value for c in ranked if (value := metric.value(c.metrics)) is not None]
    if sigma is None or not scores or not math.isfinite(scores[0]):
        return None
    best, *others = ranked
    close = _TIE * sigma

    def as_good(value: float) -> bool:
        return metric.better(value, scores[0]) or abs(value - scores[0]) <= close

    ties = tuple(other.step for other, value in zip(others, scores[1:], strict=True) if as_good(value))
    finite = [value for value in values if math.isfinite(value)]
    lead = abs(scores[1] - scores[0]) if others and math.isfinite(scores[1]) else None
    return Certainty(best.name, best.step, lead, sigma, ties, len(finite), max(sum(map(as_good, finite)), 1))


def _listed(steps: Sequence[int]) -> str:
    named = [str(step) for step in steps[:_MOST_NAMED]]
    if len(steps) > _MOST_NAMED:
        return f"{', '.join(named)} and {len(steps) - _MOST_NAMED} more"
    *first, last = named
    return f"{', '.join(first)} and {last}" if first else last
