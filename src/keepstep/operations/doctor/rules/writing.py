"""How a rule is written: a function that looks at facts, with its texts around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from keepstep.operations.doctor.findings import Check, Rule

SCRIPT, YAML, RUN, TRAINER, JOB = "script", "yaml", "run", "trainer", "job"
"""Kinds of target: a Python script, a file of `trl sft --config`, a run directory, a live trainer at attach, a job
file.
"""
ANYWHERE = frozenset({SCRIPT, YAML, RUN, TRAINER})
FILES = frozenset({SCRIPT, YAML})


def rule(
    id_: str, title: str, *, why: str, fix: str, solved: str = "", sources: frozenset[str] = ANYWHERE
) -> Callable[[Check], Rule]:
    """Make a function a rule; its docstring says what happens."""

    def make(check: Check) -> Rule:
        return Rule(id_, title, _line(inspect.getdoc(check)), _line(why), _line(fix), check, _line(solved), sources)

    return make


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
