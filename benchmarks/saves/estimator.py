"""What a save cost, from the times of a course: pure arithmetic.

A save's window runs from the step end at which it began to the end of the step in which it became durable, or to the
next save where that comes first: what is left then falls into the next window. The *true inflation* of a save is the
length of its window minus that of the same number of undisturbed steps. Undisturbed is a step that no window touches,
past the warm-up; their median is of the same process.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """What one save cost, in seconds. `overlapped` says that the next save began before it was durable."""

    step: int
    steps: int
    blocked: float
    inflation: float
    durable: float
    claimed: float
    cpu: float
    size: int
    overlapped: bool


@dataclass(frozen=True, slots=True)
class Window:
    """Steps `first` (exclusive) to `last` (inclusive)."""

    first: int
    last: int

    @property
    def steps(self) -> int:
        """How many."""
        return self.last - self.first


def windows(record: dict[str, Any]) -> list[Window]:
    """One for each save, in order."""
    boundaries, saves = record["boundaries"], record["saves"]
    found: list[Window] = []
    for index, save in enumerate(saves):
        end = min(bisect_left(boundaries, save["durable"]), len(boundaries) - 1)
        end = max(end, save["step"] + 1)
        if index + 1 < len(saves):
            end = min(end, saves[index + 1]["step"])
        found.append(Window(save["step"], end))
    return found


def undisturbed(record: dict[str, Any]) -> list[int]:
    """Indices of steps (step n runs from boundary n-1 to n) that no window touches, nor the one before."""
    busy = {step for window in windows(record) for step in range(window.first + 1, window.last + 2)}
    return [step for step in range(record["warm_steps"] + 1, len(record["boundaries"])) if step not in busy]


def quiet_step(record: dict[str, Any], key: str = "boundaries") -> float:
    """Median length of an undisturbed step: seconds of `boundaries`, or CPU seconds of `cpu`."""
    values = record[key]
    return statistics.median(values[step] - values[step - 1] for step in undisturbed(record))


def costs(record: dict[str, Any]) -> list[Cost]:
    """What each save that counts cost."""
    boundaries, cpu = record["boundaries"], record["cpu"]
    step_seconds, step_cpu = quiet_step(record), quiet_step(record, "cpu")
    found: list[Cost] = []
    for save, window in zip(record["saves"], windows(record), strict=True):
        if not save["counts"]:
            continue
        wall = boundaries[window.last] - boundaries[window.first]
        used = cpu[window.last] - cpu[window.first]
        found.append(
            Cost(
                step=save["step"],
                steps=window.steps,
                blocked=save["returned"] - save["began"] + save["held"],
                inflation=wall - window.steps * step_seconds,
                durable=save["durable"] - save["began"],
                claimed=save["claimed"] - save["began"],
                cpu=used - window.steps * step_cpu,
                size=save["size"],
                overlapped=save["durable"] > boundaries[window.last],
            )
        )
    return found


def noise(record: dict[str, Any], steps: int) -> list[float]:
    """The inflation that the same estimator finds where nothing is saved, in windows of `steps` steps."""
    boundaries, step_seconds = record["boundaries"], quiet_step(record)
    starts = range(record["warm_steps"] + 1, len(boundaries) - steps, steps)
    return [boundaries[at + steps] - boundaries[at] - steps * step_seconds for at in starts]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, extremes and count of measured values."""

    median: float
    low: float
    high: float
    count: int
    noise: float = 0.0
    """Half of what lies between the quartiles: half of the values are no farther from the middle."""

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value; of fewer than four the noise is half of their whole range."""
        if len(values) < 4:
            between = max(values) - min(values)
        else:
            lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
            between = upper - lower
        return cls(statistics.median(values), min(values), max(values), len(values), between / 2)

    def differs_from(self, other: Spread, floor: float = 0.0) -> bool:
        """Whether the medians are farther apart than the noise of both, and than `floor`, that of the measurement."""
        return abs(self.median - other.median) > max(self.noise + other.noise, floor)
