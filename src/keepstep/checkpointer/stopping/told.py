"""That a training is told to stop, by whom; and what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Told:
    """`why` in words ("SIGTERM", "max_time 7h50m"), `signal` its number where one came, `at` in `time.time` seconds."""

    why: str
    signal: int | None = None
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Preemption:
    """A training that was stopped early: why, at which step, and where a resume goes on (None: at the start).

    `lost_steps` and `lost_seconds` were trained and are in no checkpoint.
    """

    why: str
    step: int
    resumes_at: int | None
    lost_steps: int = 0
    lost_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; seconds."""
        return {
            "why": self.why,
            "step": self.step,
            "resumes_at": self.resumes_at,
            "lost_steps": self.lost_steps,
            "lost_seconds": round(self.lost_seconds, 3),
        }
