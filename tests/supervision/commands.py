"""`keepstep run` as a process of its own, over tiny commands that import nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUICK = ("--backoff", "10ms")
_LONGEST = 120


@dataclass(frozen=True)
class Ended:
    """What a supervised command came to: the supervisor's exit code, what was said, and its records."""

    code: int
    stdout: str
    stderr: str
    events: list[dict[str, Any]]

    @property
    def kinds(self) -> list[str]:
        """The kind of every attempt's end."""
        return [event["kind"] for event in self.events if "kind" in event]

    def named(self, name: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [event for event in self.events if event["event"] == name]


class Supervised:
    """A running `keepstep run`; its log and records are in `place`."""

    def __init__(self, place: Path, command: Sequence[object], options: Sequence[object] = (), **popen: Any) -> None:
        self.place = place
        words = [sys.executable, "-m", "keepstep", "run", *QUICK, "--log-dir", place, *options, "--", *command]
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        self.process = subprocess.Popen([str(word) for word in words], text=True, **(streams | popen))

    def tell(self, number: int) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def wait(self) -> Ended:
        """How it ended."""
        try:
            stdout, stderr = self.process.communicate(timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return Ended(self.process.returncode, stdout or "", stderr or "", events(self.place))


def events(place: Path) -> list[dict[str, Any]]:
    """What a supervisor has recorded so far."""
    try:
        return [json.loads(line) for line in (place / "attempts.jsonl").read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def python(text: str) -> list[str]:
    """A command that runs this program; `attempt` is a number from 1 on in it."""
    return [sys.executable, "-c", f"import os, sys, time\nattempt = int(os.environ['KEEPSTEP_ATTEMPT'])\n{text}"]


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something, which is returned."""
    limit = time.monotonic() + _LONGEST
    while not (found := condition()):
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    """True for a process that runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return stat.rpartition(")")[2].split()[0] != "Z"
