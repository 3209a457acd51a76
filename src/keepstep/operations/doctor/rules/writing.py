"""How a rule is written: a function that looks at facts, with its texts around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from keepstep.operations.doctor.findings import Check, Rule

SCRIPT, YAML, COMMAND, STOCK, RUN, TRAINER, JOB = "script", "yaml", "command", "stock", "run", "trainer", "job"
"""Kinds of target: a Python script, a training's YAML file, a command that starts a training which is not there to be
read, a directory of the stock Trainer's, a run directory, a live trainer at attach, a job file.
"""
FILES = frozenset({SCRIPT, YAML, COMMAND})
ANYWHERE = FILES | {STOCK, RUN, TRAINER}


def rule(
    id_: str, title: str, *, why: str, fix: str, solved: str = "", sources: frozenset[str] = ANYWHERE
) -> Callable[[Check], Rule]:
    """Make a function a rule; its docstring says what happens."""

    def make(check: Check) -> Rule:
        return Rule(id_, title, _line(inspect.getdoc(check)), _line(why), _line(fix), check, _line(solved), sources)

    return make


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
