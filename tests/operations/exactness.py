"""How exact the doctor is on training scripts of every shape: what it finds, what it should not, and what it misses.

The scripts in `doctor_scripts/` have the shapes of public ones, written anew. `right` in each `case.toml` is what a
person finds who knows how the training is started; `false` and `missed` are where the doctor is known to differ.
`python -m tests.operations.exactness` prints the table.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from keepstep.operations.doctor import Options, examine_together
from keepstep.operations.doctor.reading.command_line import CommandLine
from keepstep.operations.doctor.settings import NotKnown, Settings
from keepstep.operations.doctor.targets import read_targets

HERE = Path(__file__).parent / "doctor_scripts"
SETTINGS = (
    "output_dir", "save_steps", "eval_steps", "eval_strategy", "save_total_limit", "load_best_model_at_end",
)  # fmt: skip
"""Those that decide on most findings."""
PLACES = frozenset({"W401", "I402", "I403", "W404"})
"""Rules about the machine, which a script doesn't tell."""
_SCHEDULERS = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")


@dataclass(frozen=True)
class Case:
    """A training, what a person finds wrong with it, and how many of `SETTINGS` can be known."""

    name: str
    what: str
    targets: tuple[str, ...]
    arguments: tuple[str, ...] | None
    settings: int
    right: frozenset[str]
    false: frozenset[str]
    missed: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """What the doctor says of a case."""

    case: Case
    found: frozenset[str]
    settings: int
    unknown: tuple[str, ...]

    @property
    def false(self) -> frozenset[str]:
        return self.found - self.case.right

    @property
    def missed(self) -> frozenset[str]:
        return self.case.right - self.found


def cases() -> list[Case]:
    """All of them, by name."""
    return [_case(path) for path in sorted(HERE.glob("*/case.toml"))]


def measure(case: Case) -> Outcome:
    """Examine a case where it lies, as from its own directory."""
    paths = [Path(target) for target in case.targets]
    environment = {name: value for name, value in os.environ.items() if name not in _SCHEDULERS}
    with chdir(HERE / case.name), patch.dict(os.environ, environment, clear=True):
        reports = examine_together(paths, Options(), case.arguments)
        line = CommandLine.typed(case.arguments) if case.arguments is not None else None
        read = [facts.settings for one in read_targets(paths, line) for facts in one.facts if facts.source != "job"]
    found = {finding.id for report in reports for finding in report.findings} - PLACES
    known = min((sum(_is_known(settings, name) for name in SETTINGS) for settings in read), default=0)
    unknown = tuple(line for report in reports for line in report.unread)
    return Outcome(case, frozenset(found), known, unknown)


def table() -> str:
    """The outcomes as a Markdown table, and their sum."""
    outcomes = [measure(case) for case in cases()]
    rows = "".join(_row(outcome) for outcome in outcomes)
    right = sum(len(outcome.found & outcome.case.right) for outcome in outcomes)
    false, missed = (sum(len(getattr(outcome, kind)) for outcome in outcomes) for kind in ("false", "missed"))
    return (
        "| training | settings read | right | false | missed |\n|---|---|---|---|---|\n"
        f"{rows}| **{len(outcomes)} in all** | | {right} | {false} | {missed} |\n"
    )


def _row(outcome: Outcome) -> str:
    case = outcome.case
    read = f"{min(outcome.settings, case.settings)} of {case.settings}"
    return (
        f"| {case.what} | {read} | {_listed(outcome.found & case.right)} | {_listed(outcome.false)} "
        f"| {_listed(outcome.missed)} |\n"
    )


def _listed(ids: frozenset[str]) -> str:
    return ", ".join(sorted(ids)) or "-"


def _is_known(settings: Settings, name: str) -> bool:
    try:
        settings[name]
    except NotKnown:
        return False
    return True


def _case(path: Path) -> Case:
    read = tomllib.loads(path.read_text(encoding="utf-8"))
    arguments = tuple(read["arguments"]) if "arguments" in read else None
    kinds = (frozenset(read.get(kind, ())) for kind in ("right", "false", "missed"))
    return Case(path.parent.name, read["what"], tuple(read["targets"]), arguments, read["settings"], *kinds)


def _lines() -> Iterator[str]:
    yield table()
    for case in cases():
        outcome = measure(case)
        for line in outcome.unknown:
            yield f"{case.name}: not known: {line}"


if __name__ == "__main__":
    print("\n".join(_lines()))
