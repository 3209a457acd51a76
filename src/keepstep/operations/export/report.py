"""What an export did, and what is known of the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep.model import Checkpoint, FileEntry
from keepstep.retention import Mode
from keepstep.strict import finite_or_name


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward pass on fixed tokens: the export against its source.

    `difference` is the largest absolute difference of two outputs, `largest` the largest absolute output of the
    source, `allowed` the largest difference that passes (None where a change of dtype leaves no bound to test).
    `same_choice` is the share of positions with the same most likely token, from 0 to 1.
    """

    tokens: int
    difference: float
    largest: float
    allowed: float | None
    same_choice: float

    @property
    def passes(self) -> bool:
        """False where the difference is larger than allowed, or no number."""
        return self.allowed is None or self.difference <= self.allowed

    def describe(self) -> str:
        """One clause: the difference, and against what."""
        if self.difference == 0:
            return f"a forward pass on {self.tokens} tokens gives the same output, bit for bit"
        passed = "" if self.allowed is None else f", {self.allowed:.3g} allowed"
        return (
            f"a forward pass on {self.tokens} tokens differs by at most {self.difference:.3g} "
            f"(largest output {self.largest:.3g}{passed}; most likely token the same at {self.same_choice:.0%})"
        )


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of loading an export and comparing it with its source.

    `loaded_by` is the stock class that loaded it, empty where none could; `compared` says what the tensors were
    compared with, `memory` how many of the source's are what was in memory when it was saved, of a mean for each step.
    Where the source is the same files, and need not be loaded, `forward` is None and `computed` says what came of a
    forward pass. Where something could not be tried, `untried` says why.
    """

    loaded_by: str
    tensors: int
    compared: str
    forward: Forward | None = None
    merge: Forward | None = None
    untried: str = ""
    memory: str = ""
    computed: str = ""

    def lines(self) -> list[str]:
        """What was checked, in sentences without a final stop."""
        said = [f"loaded by {self.loaded_by}"] if self.loaded_by else []
        said.append(f"{self.tensors:,} tensors {self.compared}")
        if self.memory:
            said.append(f"{'loaded' if self.computed else 'the source, loaded'}: {self.memory}")
        if self.merge is not None:
            said.append(f"in fp32, against base and adapter: {self.merge.describe()}")
        if self.forward is not None:
            against = "" if self.merge is None else "as exported, against base and adapter: "
            said.append(against + self.forward.describe())
        if self.computed:
            said.append(self.computed)
        if self.untried:
            said.append(f"not tried: {self.untried}")
        return said


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate that was evaluated: the steps that were averaged (one for a single checkpoint), and its value."""

    steps: tuple[int, ...]
    value: float

    @property
    def single(self) -> bool:
        return len(self.steps) == 1


@dataclass(frozen=True, slots=True)
class Average:
    """How an average came about. `trials` is empty where nothing was evaluated; `measured` says by what, otherwise."""

    soup: str
    asked: tuple[int, ...]
    steps: tuple[int, ...]
    mode: Mode = "min"
    trials: tuple[Trial, ...] = ()
    measured: str = ""

    @property
    def name(self) -> str:
        """`average of steps 300, 200`, or `step 300` where a greedy soup took one alone."""
        return _steps(self.steps) if len(self.steps) == 1 else f"average of {_steps(self.steps)}"

    @property
    def result(self) -> Trial | None:
        """The trial of what is exported."""
        return next((trial for trial in self.trials if set(trial.steps) == set(self.steps)), None)

    @property
    def best_single(self) -> Trial | None:
        """The best of the single checkpoints, of equal ones the earliest."""
        singles = [trial for trial in self.trials if trial.single]
        return min(singles, key=lambda trial: (rank_key(trial.value, self.mode), trial.steps), default=None)

    @property
    def worse(self) -> bool:
        """True where what is exported is worse than one of its members alone."""
        result, single = self.result, self.best_single
        if result is None or single is None:
            return False
        return rank_key(result.value, self.mode) > rank_key(single.value, self.mode)

    def verdict(self) -> str:
        """One sentence that leaves nothing out."""
        result, single = self.result, self.best_single
        steps = _steps(self.steps)
        if result is None or single is None:
            return (
                f"The average of {steps} was not evaluated: nobody knows yet whether it is better than the best alone."
            )
        if result.single:
            return f"No average was better than {steps} alone ({result.value:.6g}), which is what is exported."
        figures = f"{result.value:.6g} against {single.value:.6g} of {_steps(single.steps)}, the best alone"
        if self.worse:
            return f"THE AVERAGE IS WORSE than a single checkpoint: {figures}."
        if result.value == single.value:
            return f"The average of {steps} is as good as the best alone: {figures}."
        return f"The average of {steps} is better: {figures}."


@dataclass(frozen=True, slots=True)
class Export:
    """A finished export: `path`, the checkpoints that it is made of, its files, and what is known of it."""

    path: Path
    members: tuple[Checkpoint, ...]
    files: tuple[FileEntry, ...]
    kind: str
    dtype: str
    parameters: int
    check: Check | None
    average: Average | None
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    pushed_to: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(entry.size for entry in self.files)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "path": str(self.path),
            "steps": [member.step for member in self.members],
            "generations": [member.generation for member in self.members],
            "kind": self.kind,
            "dtype": self.dtype,
            "parameters": self.parameters,
            "size_bytes": self.size_bytes,
            "files": [{"path": f.path, "size_bytes": f.size, "digest": f.digest} for f in self.files],
            "check": None if self.check is None else check_json(self.check),
            "average": None if self.average is None else average_json(self.average),
            "notes": list(self.notes),
            "left_out": list(self.left_out),
            "pushed_to": self.pushed_to,
        }


def rank_key(value: float, mode: Mode) -> float:
    """A number that is lower for a better value; that of NaN is worse than any."""
    if math.isnan(value):
        return math.inf
    return value if mode == "min" else -value


def check_json(check: Check) -> dict[str, Any]:
    """Plain values of a check."""
    return {
        "loaded_by": check.loaded_by,
        "tensors": check.tensors,
        "compared": check.compared,
        "forward": _forward_json(check.forward),
        "merge": _forward_json(check.merge),
        "untried": check.untried,
        "memory": check.memory,
        "computed": check.computed,
    }


def average_json(average: Average) -> dict[str, Any]:
    """Plain values of an average."""
    return {
        "soup": average.soup,
        "asked": list(average.asked),
        "steps": list(average.steps),
        "measured": average.measured,
        "mode": average.mode,
        "trials": [{"steps": list(trial.steps), "value": finite_or_name(trial.value)} for trial in average.trials],
        "worse_than_single": average.worse,
    }


def _forward_json(forward: Forward | None) -> dict[str, Any] | None:
    if forward is None:
        return None
    return {
        "tokens": forward.tokens,
        "max_difference": finite_or_name(forward.difference),
        "largest_output": finite_or_name(forward.largest),
        "allowed": forward.allowed,
        "same_choice": forward.same_choice,
    }


def _steps(steps: tuple[int, ...]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else "steps " + ", ".join(map(str, steps))
