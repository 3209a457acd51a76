"""The process that one training of the suite for integrations runs in: its inside, and how a command is run in one."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from keepstep.errors import KeepstepError
from keepstep.testing.integration_course import Course, Outcome

PATIENCE = 300.0
"""Seconds after which a training that does not end is killed, and the test fails."""


def play(course: Course, train: Callable[[Course], Outcome]) -> None:
    """Train as a course says, in the process that is there for it: meet its strike, leave its outcome.

    An error of keepstep ends the process with that error's exit code.
    """
    striking = nullcontext()
    if course.strike is not None:
        from keepstep.testing.integration_trap import Trap  # most processes need none

        striking = Trap(course, course.strike).injected()
    try:
        with striking:
            outcome = train(course)
    except KeepstepError as error:
        traceback.print_exc()
        sys.exit(error.exit_code)
    outcome.write(course.outcome)


def run_process(command: Sequence[str], course: Course) -> int:
    """Run a command with the course as its last argument; returns the exit code. Raises TimeoutExpired after 300 s."""
    with course.log.open("ab") as log:
        done = subprocess.run(
            [*command, str(course)], stdout=log, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False
        )
    return done.returncode
