"""When a training evaluates and saves, as transformers' DefaultFlowCallback decides it."""

from __future__ import annotations

from dataclasses import dataclass

from keepstep.errors import SettingsError

MOST_SAVES = 5_000
"""More saves than any training needs, and as many as can be replayed in a minute."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Optimizer steps in all, between two saves, and between two evaluations (None: nothing is evaluated).

    SettingsError when a number is below 1 or when there are too many saves to be meant.
    """

    steps: int
    save_every: int
    eval_every: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("save", self.save_every), ("eval", self.eval_every)):
            if value is not None and value < 1:
                raise SettingsError(f"the schedule has {value} for {name}", hint="Give a whole number of 1 or more.")
        for what, every in (("saves", self.save_every), ("evaluations", self.eval_every or self.steps)):
            if self.steps // every > MOST_SAVES:
                raise SettingsError(
                    f"{self.steps:,} steps with {what} every {every:,} are {self.steps // every:,} {what}",
                    hint=f"At most {MOST_SAVES:,} can be planned; make the interval longer.",
                )

    @property
    def saves(self) -> tuple[int, ...]:
        """Steps that are saved by schedule: multiples, and the last one."""
        return _multiples(self.steps, self.save_every)

    @property
    def evaluations(self) -> tuple[int, ...]:
        """Steps that are evaluated: multiples, and the last one."""
        return _multiples(self.steps, self.eval_every) if self.eval_every else ()

    @property
    def between_saves(self) -> int:
        """Evaluations of steps that no save is due at: each that finds a new best is one more save."""
        return len(set(self.evaluations) - set(self.saves))


def _multiples(steps: int, every: int) -> tuple[int, ...]:
    found = range(every, steps + 1, every)
    return (*found,) if steps % every == 0 else (*found, steps)
