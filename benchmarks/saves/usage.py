"""CPU seconds and peak memory of this process and its children, from /proc."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def descendants(pid: int | None = None) -> list[int]:
    """Process ids below `pid` (default: this process)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
            for child in map(int, (task / "children").read_text("ascii").split()):
                found += [child, *descendants(child)]
    return found


def cpu_seconds() -> float:
    """User and system seconds so far, children included, ended ones too."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    for pid in descendants():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


class Memory:
    """Peak resident memory since `begin`; memory that children share with this process counts once."""

    def __init__(self) -> None:
        self._children: dict[int, int] = {}

    def begin(self) -> None:
        """Forget the peak so far; where the system forbids that, the peak of the whole process counts."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", "ascii")

    def sample(self) -> None:
        """Look at the children, which may end before the peak is asked for."""
        for pid in descendants():
            with contextlib.suppress(OSError, KeyError):
                status = _status(pid)
                private = status["VmHWM"] - status["RssFile"] - status["RssShmem"]
                self._children[pid] = max(private, self._children.get(pid, 0))

    @property
    def peak(self) -> int:
        """Bytes."""
        self.sample()
        return _status(os.getpid())["VmHWM"] + sum(self._children.values())


def _status(pid: int) -> dict[str, int]:
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[-1] == "kB"}
