"""One attempt's processes: the command that was started, and all that lives below it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from keepstep.supervision.processes import Process, descendants, end_with_parent, tell, unblock

LEFT_GRACE = 10.0
"""Seconds that is left to processes whose command has ended, before they are killed."""


class Child:
    """A command that runs in the session and the process group of this process, so that the terminal is its own too.

    `status` is that of the command once it has ended, as `os.waitstatus_to_exitcode` gives it; `others` are those of
    processes below it that came to this process.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, stdout: int | None, stderr: int | None
    ) -> None:
        """Start it, with none of the signals blocked that the supervisor hears. Raises OSError."""

        def prepare() -> None:
            unblock()
            end_with_parent()

        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdout=stdout,
            stderr=stderr,
            preexec_fn=prepare,  # noqa: PLW1509 - it takes no lock
        )
        self.pid = self._process.pid
        self.began = time.monotonic()
        self.status: int | None = None
        self.others: list[int] = []
        self.killed = False
        """True once something of it was killed by us."""
        self.left_grace = LEFT_GRACE
        self._stop_by: float | None = None
        self._told_pids: set[int] = set()

    def reap(self) -> None:
        """Take the status of whatever has ended, its orphans included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self.pid:
                self.status = self._process.returncode = code
            else:
                self.others.append(code)

    def living(self) -> list[Process]:
        """What lives, parents first."""
        return descendants(os.getpid())

    def hand_on(self, number: int) -> None:
        """Give the command a signal that this process got."""
        if self.status is None:
            tell(self.pid, number)

    @property
    def is_stopping(self) -> bool:
        """True once it was told to stop."""
        return self._stop_by is not None

    def stop(self, number: int, grace: float, *, hand_on: bool = True) -> None:
        """Tell the command to stop: killed is what lives in `grace` seconds. A launcher that ends without its workers
        leaves them to us, and they are told in turn. `hand_on` is False where the command was told already.
        """
        if hand_on:
            self.hand_on(number)
        self._told_pids.add(self.pid)
        self.hurry(grace)

    def hurry(self, grace: float) -> None:
        """Kill what lives in `grace` seconds, or when that was to be before."""
        by = time.monotonic() + grace
        self._stop_by = by if self._stop_by is None else min(by, self._stop_by)

    def tend(self) -> bool:
        """Do what is due; True once the command and all that lived below it has ended."""
        self.reap()
        if self.status is None and self._stop_by is None:
            return False
        living = self.living()
        if self.status is not None and not living:
            self.reap()
            return True
        if self._stop_by is None:
            self.hurry(self.left_grace)
        assert self._stop_by is not None
        for orphan in living:
            if orphan.parent == os.getpid() and orphan.pid not in self._told_pids:
                self._told_pids.add(orphan.pid)
                tell(orphan.pid, signal.SIGTERM)
        if time.monotonic() >= self._stop_by:
            self.killed = True
            for process in living:
                tell(process.pid, signal.SIGKILL)
        return False

    def end(self, wait: Callable[[float], object]) -> None:
        """Kill all of it, now."""
        self.hurry(0.0)
        while not self.tend():
            wait(0.02)
