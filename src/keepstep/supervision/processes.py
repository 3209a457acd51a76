"""Processes below this one: who there is, how orphans come to it, and which signals it hears. Linux alone."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


HEARD = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCHLD}
)
"""What a supervisor waits for: it has these signals blocked, and takes them one by one."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process below another one; `state` is the kernel's letter, Z for one that has ended and is not reaped."""

    pid: int
    parent: int
    state: str


def take_orphans() -> None:
    """Be the parent of every process below this one whose parent ends."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def unblock() -> None:
    """In a child: hear signals again. What is blocked stays so when another program starts."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


def end_with_parent() -> None:
    """In a child: be told to stop when the process that started it ends, however that happens."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def descendants(root: int) -> list[Process]:
    """All that live below a process, parents before their children."""
    children: dict[int, list[Process]] = {}
    for process in _all():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += [one for one in below if one.state != "Z"]
        waiting += [one.pid for one in below]
    return found


def tell(pid: int, number: int) -> bool:
    """Send a signal; False where the process is gone or is somebody else's."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
        return True
    return False


def _all() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                # The name of a program stands in parentheses, and may have some.
                fields = file.read().rpartition(")")[2].split()
            yield Process(int(name), int(fields[1]), fields[0])
