"""The runs that this process has trained itself: what a fresh start here may set aside unasked."""

from __future__ import annotations

import os

from keepstep.run import Run

_own: set[tuple[int, str, str]] = set()
"""Process, directory and run id. By process: a forked child begins as a new one, and has trained nothing yet."""


def remember(run: Run) -> None:
    """This process trains the run, in the directory in which it lies now."""
    _own.add(_key(run))


def is_own(run: Run) -> bool:
    """True when this process has trained the run, in the same directory."""
    return _key(run) in _own


def _key(run: Run) -> tuple[int, str, str]:
    return os.getpid(), os.path.realpath(run.path), run.id
