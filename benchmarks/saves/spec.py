"""What is measured: one course (a process), and one leg (courses of all methods in interleaved rounds)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Leg:
    """One question: a workload, a cadence in optimizer steps, a number of training threads.

    `saves` are those of one course that count, after one that warms up. `resumes` says whether loading is measured too.
    """

    workload: str
    methods: tuple[str, ...]
    every: int = 4
    threads: int = 1
    rounds: int = 3
    saves: int = 3
    quiet: int = 5
    resumes: bool = True
    limits: bool = True

    @property
    def name(self) -> str:
        """What results of this leg are filed under."""
        return f"{self.workload}, every {self.every} steps, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "methods": list(self.methods)}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Leg:
        """The leg of `to_json`."""
        return cls(**{**given, "methods": tuple(given["methods"])})


@dataclass(frozen=True, slots=True)
class CourseSpec:
    """One training process. `quiet` undisturbed steps come before the saves; `directory` is where it may write."""

    workload: str
    method: str
    directory: str
    every: int = 4
    threads: int = 1
    saves: int = 3
    quiet: int = 8
    llama: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
