"""Processes that die at a system call: forked from a warm parent, killed by strace or by the fault injector."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from keepstep.testing.faults import Fault, Injector

MUTATING = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat",
    "mkdir", "mkdirat", "rmdir", "ftruncate", "chmod", "fchmod", "link", "linkat", "symlink",
)  # fmt: skip
_CALL = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)$")
_PR_SET_PTRACER = 0x59616D61


@dataclass(frozen=True)
class Point:
    """A place to die: at the n-th call of a system call's name, or at the n-th change of the store."""

    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} #{self.number}"


@cache
def has_strace() -> bool:
    """True when strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


def points_of(act: Callable[[], None], log: Path) -> list[Point]:
    """Every place where the action changes something, found in a run without any fault."""
    if not has_strace():
        injector = Injector()
        with injector.injected():
            act()
        return [Point("change", number + 1) for number in range(len(injector.changes))]
    status = _fork_traced(act, ["-e", f"trace={','.join(MUTATING)}", "-o", str(log)])
    assert os.waitstatus_to_exitcode(status) == 0, log.read_text()
    counts: Counter[str] = Counter()
    found: list[Point] = []
    for line in log.read_text().splitlines():
        if (call := _CALL.match(line)) is None:
            continue
        name, arguments = call.groups()
        counts[name] += 1
        if name != "openat" or "O_CREAT" in arguments:
            found.append(Point(name, counts[name]))
    return found


def die_at(act: Callable[[], None], point: Point) -> bool:
    """Run the action in a process of its own and kill it there; False when it came to its end instead."""
    if point.call == "change":
        status = _fork(lambda: _with_fault(act, Fault(point.number, None)), lambda _pid: None)
    else:
        inject = f"inject={point.call}:signal=SIGKILL:when={point.number}"
        status = _fork_traced(act, ["-e", f"trace={point.call}", "-e", inject, "-o", os.devnull])
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the victim ended with {code} instead of dying at {point}"
    return code != 0


def _with_fault(act: Callable[[], None], fault: Fault) -> None:
    with Injector(fault).injected():
        act()


def _fork_traced(act: Callable[[], None], options: list[str]) -> int:
    tracers: list[subprocess.Popen[bytes]] = []

    def attach(pid: int) -> None:
        tracers.append(subprocess.Popen(["strace", "-qq", "-p", str(pid), *options], stderr=subprocess.DEVNULL))
        while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
            assert tracers[0].poll() is None, "strace could not attach"
            time.sleep(0.001)

    status = _fork(act, attach)
    tracers[0].wait()
    return status


def _fork(act: Callable[[], None], before: Callable[[int], None]) -> int:
    """Fork, call `before` with the child's id, then let it act; returns its wait status."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _act_and_exit(act, reading)
    os.close(reading)
    try:
        before(child)
    finally:
        os.close(writing) if sys.exc_info()[0] else os.write(writing, b"x")
    status = os.waitpid(child, 0)[1]
    if not sys.exc_info()[0]:
        os.close(writing)
    return status


def _act_and_exit(act: Callable[[], None], reading: int) -> None:
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        if os.read(reading, 1):
            act()
            code = 0
    finally:
        os._exit(code)
