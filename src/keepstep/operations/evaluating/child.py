"""One command for one checkpoint: started, bounded in time, ended with all that it started, and read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from keepstep.units import format_duration

PLACE = "{}"
"""What stands in a command for the directory of the checkpoint."""
MOST_READ = 2**20
"""Bytes at the end of what a command prints that are looked at."""
LAST_LINES = 5
GRACE_SECONDS = 5.0
"""What is left to a command to end by itself."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), what is wrong, its metrics, its last lines."""

    exit_code: int
    problem: str
    metrics: dict[str, float]
    last_lines: tuple[str, ...]
    seconds: float


class Child:
    """A command that runs. It has a process group of its own, so that all that it starts ends with it."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        """Start it, with the checkpoint's directory in the place of each `{}`. Raises OSError."""
        words = [part.replace(PLACE, str(directory)) for part in command]
        self._began = time.monotonic()
        with ExitStack() as opened:
            self._out: IO[bytes] = opened.enter_context(tempfile.TemporaryFile())
            self._err: IO[bytes] = opened.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err, start_new_session=True
            )
            opened.pop_all()

    def wait(self, timeout: float | None) -> Ended:
        """How it ended; what takes longer than `timeout` seconds is ended."""
        problem = ""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            problem, code = f"took longer than {format_duration(timeout or 0)}, and was ended", self.end()
        seconds = time.monotonic() - self._began
        printed, said = _tail(self._out), _tail(self._err)
        metrics = metrics_in(printed) if not problem and code == 0 else {}
        if not problem and code:
            problem = f"was ended by {_signal(-code)}" if code < 0 else f"exit code {code}"
        if not problem and not metrics:
            problem = "printed no line that is a JSON object with numbers"
        lines = [line for line in [*said.splitlines(), *printed.splitlines()] if line.strip()]
        return Ended(code, problem, metrics, tuple((said.splitlines() or lines)[-LAST_LINES:]), seconds)

    def end(self) -> int:
        """End it and what it started; returns its exit code."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
        return self._process.wait()


def metrics_in(printed: str) -> dict[str, float]:
    """The numbers of the last line that is a JSON object; empty where there is none."""
    for line in reversed(printed.splitlines()):
        if not line.strip().startswith("{"):
            continue
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return dict(_numbers(cast("dict[str, Any]", found)))
    return {}


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    numbers = {n: v for n, v in found.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {name: float(value) for name, value in numbers.items() if isinstance(value, float) or abs(value) < 2**1000}


def _tail(file: IO[bytes]) -> str:
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - MOST_READ, 0))
        return file.read().decode(errors="replace")


def _signal(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
