"""What a situation is: how its trainer is built, how its trainings go, and what is compared of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import Trainer

import keepstep
from keepstep import Checkpointer
from tests.cases.facts import Facts, facts_of
from tests.failures.build import At
from tests.training.course import die

CONTROL = None
"""In place of an engine: the stock Trainer by itself."""


class Side:
    """Who keeps the checkpoints of one life: the stock Trainer by itself, or keepstep with one of its engines."""

    def __init__(self, engine: str | None) -> None:
        self.engine = engine
        self.checkpointer: Checkpointer | None = None
        """What the last `attach` returned."""

    @property
    def managed(self) -> bool:
        """True with keepstep."""
        return self.engine is not CONTROL

    def attach(self, trainer: Trainer, **options: Any) -> Trainer:
        """Attach keepstep to a trainer, or leave it as it is."""
        if self.managed:
            self.checkpointer = keepstep.attach(trainer, engine=self.engine, **options)
        return trainer

    def resume(self, out: Path) -> Any:
        """What `train` is given: the word of ours, or what a careful script without it finds out for itself."""
        return "auto" if self.managed else (True if any(out.glob("checkpoint-*")) else None)

    def train(self, trainer: Trainer) -> None:
        """Train to the end, from the newest checkpoint where there is one."""
        trainer.train(resume_from_checkpoint=self.resume(Path(trainer.args.output_dir)))

    def facts(self, trainer: Trainer) -> Facts:
        """The outcome of all trainings."""
        return facts_of(trainer, self.checkpointer)


Build = Callable[[Path], Trainer]
Life = Callable[[Side, Path], Facts]
"""What one process does with an output directory; returns what is compared, or dies on the way."""


def nothing(trainer: Trainer) -> Facts:
    """No facts beyond the outcome of all."""
    return {}


@dataclass(frozen=True)
class Situation:
    """One situation: a training that is left alone, and one in which something happens.

    By default that is a SIGKILL when step `kill` is done and saved, and a second process that resumes (`again` where it
    builds another trainer). Without `kill` there is the training alone. `whole` and `broken` are for those that go
    otherwise: what the processes do, one after the other; all but the last may be killed.

    `also` are facts to compare beyond the outcome of all, `wants` those whose right value is known. `needs` names
    modules without which it can't be tried.
    """

    name: str
    tells: str
    build: Build
    kill: int | None = 4
    again: Build | None = None
    also: Callable[[Trainer], Facts] = nothing
    wants: Mapping[str, Any] = field(default_factory=dict)
    attach: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    whole: Life | None = None
    broken: tuple[Life, ...] | None = None

    def lives(self, *, left_alone: bool) -> tuple[Life, ...]:
        """What the processes of one of the two trainings do, in their order."""
        if left_alone:
            return (self.whole or self._train,)
        if self.broken is not None:
            return self.broken
        return () if self.kill is None else (self._train_and_die, self._resume)

    def missing(self) -> str | None:
        """The first module that it needs and that is not installed."""
        return next((name for name in self.needs if find_spec(name) is None), None)

    def _train(self, side: Side, out: Path) -> Facts:
        return self._end(side, self.build(out))

    def _resume(self, side: Side, out: Path) -> Facts:
        return self._end(side, (self.again or self.build)(out))

    def _end(self, side: Side, trainer: Trainer) -> Facts:
        side.attach(trainer, **self.attach)
        side.train(trainer)
        return {**side.facts(trainer), **self.also(trainer)}

    def _train_and_die(self, side: Side, out: Path) -> Facts:
        assert self.kill is not None
        trainer = dying(self.build(out), self.kill, side)
        side.attach(trainer, **self.attach)
        return self._end_of_life(side, trainer)

    def _end_of_life(self, side: Side, trainer: Trainer) -> Facts:
        side.train(trainer)
        raise AssertionError(f"the training ended before step {self.kill}")


def dying(trainer: Trainer, step: int, side: Side) -> Trainer:
    """The trainer; its process dies when `step` is done, and what was saved is on the disk."""

    def wait_and_die(**_: Any) -> None:
        if side.checkpointer is not None:
            side.checkpointer.wait()
        die()

    trainer.add_callback(At(step, wait_and_die))
    return trainer


def checkpoints(out: Path | str) -> list[Path]:
    """The checkpoint directories of either kind in an output directory, by step."""
    found = [path for path in Path(out).iterdir() if path.name.startswith(("checkpoint-", "weights-"))]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name."""
    return int(folder.name.rpartition("-")[2])


def holding(out: Path | str, name: str) -> list[int]:
    """The steps whose checkpoint has a file of that name."""
    return [step_of(folder) for folder in checkpoints(out) if (folder / name).exists()]


def lacking(out: Path | str, name: str) -> list[int]:
    """The steps whose checkpoint has none."""
    return [step_of(folder) for folder in checkpoints(out) if not (folder / name).exists()]
