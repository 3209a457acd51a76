"""One rank of two that is killed at a system call of one of its threads, by strace, while both load, train and save."""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.campaign.victims import MUTATING
from tests.sharded import legs
from tests.sharded.legs import Leg, ride_as
from tests.training import processes
from tests.training.ranked import run_ranks

SENDS = ("sendto", "sendmsg", "writev")
"""What a rank tells another one with, beside `write`."""
MAIN = "main"
_CALL = re.compile(r"^(\w+)\((.*)$")
SENT = "to another rank"
_LOADED = (".distcp", ".metadata", ".pth", "keepstep.json")
_STEP = re.compile(r"-\d+")
_HEX = re.compile(r"[0-9a-f]{8}[-0-9a-f]{8,}|[0-9a-f]{32}")
_FSYNC = os.fsync
"""The real one: trainings of these tests do without."""
_PR_SET_PTRACER = 0x59616D61


@dataclass(frozen=True)
class RankPoint:
    """A place to die: the n-th call of a name in one thread; `about` says what that call was when it was recorded."""

    thread: str
    call: str
    number: int
    about: str

    def __str__(self) -> str:
        return f"{self.thread}: {self.call} #{self.number} {self.about}"


def record(home: Path, leg: Leg, victim: int) -> list[RankPoint]:
    """A run of the leg without a fault: where the victim changes something, reads the run's files, or sends."""
    logs = home / "traces"
    logs.mkdir(parents=True, exist_ok=True)
    assert run_ranks(home, _ride, home, leg, _Traced(victim, logs, None)) == [0, 0]
    run, found = str(home / leg.name), list[RankPoint]()
    for log in sorted(logs.iterdir()):
        counts: Counter[str] = Counter()
        for line in log.read_text(errors="replace").splitlines():
            if (call := _CALL.match(line)) is None:
                continue
            name, arguments = call.groups()
            counts[name] += 1
            sends = name in SENDS or (name == "write" and "TCP:" in arguments)
            if sends or f"{run}/" in arguments or f'{run}"' in arguments:
                about = SENT if sends else _about(arguments, run)
                found.append(RankPoint(log.name, name, counts[name], about))
    return found


def _about(arguments: str, run: str) -> str:
    path = re.split('[">]', arguments[arguments.index(run) + len(run) :], maxsplit=1)[0].lstrip("/")
    return f"{_STEP.sub('-N', _HEX.sub('*', path))} {'made' if 'O_CREAT' in arguments else ''}".strip()


def kinds(points: list[RankPoint]) -> list[RankPoint]:
    """Of each kind of call on each file the first and the last; of what is sent some, spread evenly; of what is only
    read what a resume loads.
    """
    found: list[RankPoint] = []
    by_kind: dict[tuple[str, str, str], list[RankPoint]] = {}
    for point in points:
        reads = point.call == "openat" and not point.about.endswith("made")
        if not reads or point.about.endswith(_LOADED):
            by_kind.setdefault((_STEP.sub("", point.thread), point.call, point.about), []).append(point)
    for (_, _, about), same in by_kind.items():
        found += same[:: max(len(same) // 6, 1)] if about == SENT else {same[0]: 0, same[-1]: 0}
    return found


def strike(home: Path, leg: Leg, victim: int, point: RankPoint, *, dumps_after: float) -> tuple[list[int], float]:
    """A run of the leg in which the victim is killed there; returns the exit codes, and the seconds from the victim's
    end to the other's.

    Who is there after so many seconds puts the stacks of its threads into its log. Raises TimeoutError, which says who
    hangs.
    """
    ended: dict[int, float] = {}
    call = processes.call

    def noting(function: Callable[..., None], rank: int, *arguments: Any, **options: Any) -> int:
        code = call(function, rank, *arguments, **options)
        ended[rank] = time.monotonic()
        return code

    try:
        with patch.object(processes, "call", noting):
            codes = run_ranks(home, _ride, home, leg, _Traced(victim, home, point), dumps_after)
    except TimeoutError as error:
        names = ["the victim" if rank == victim else "the other" for rank in range(2) if rank not in ended]
        raise TimeoutError(f"{' and '.join(names)} hung") from error
    return codes, max(ended[1 - victim] - ended[victim], 0.0)


def _ride(rank: int, home: Path, leg: Leg, traced: _Traced, dumps_after: float = 0.0) -> None:
    if dumps_after:
        faulthandler.dump_traceback_later(dumps_after)
    if rank == traced.victim:
        with patch.object(legs, "inject", traced.training):
            ride_as(rank, home, (leg,))
    else:
        ride_as(rank, home, (leg,))


class _Traced:
    """The threads of this process that write, each below a strace of its own: each counts its own calls."""

    def __init__(self, victim: int, logs: Path, point: RankPoint | None) -> None:
        self.victim = victim
        self._logs, self._point = logs, point
        self._numbers: dict[str, Iterator[int]] = {}

    @contextmanager
    def training(self, faults: Any, trainer: Any) -> Iterator[None]:
        """From here on this thread is traced, and those of keepstep that it starts."""
        start = threading.Thread.start

        def traced(thread: threading.Thread) -> None:
            if thread.name.startswith("keepstep-") and thread.name != "keepstep-watch":
                number = next(self._numbers.setdefault(thread.name, itertools.count(1)))
                name, run = f"{thread.name}-{number}", thread.run
                thread.run = lambda: (self._attach(name), run())[1]  # type: ignore[method-assign]
            start(thread)

        with patch.object(threading.Thread, "start", traced), patch.object(os, "fsync", _FSYNC):
            self._attach(MAIN)
            yield

    def _attach(self, name: str) -> None:
        if self._point is None:
            calls = ",".join((*MUTATING, *SENDS))
            options = ["-y", "-e", f"trace={calls}", "-o", str(self._logs / name)]
        elif self._point.thread == name:
            call = self._point.call
            options = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={self._point.number}"]
            options += ["-o", "/dev/null"]
        else:
            return
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        me = threading.get_native_id()
        tracer = subprocess.Popen(["strace", "-qq", "-p", str(me), *options], stderr=subprocess.DEVNULL)
        while "TracerPid:\t0\n" in Path(f"/proc/self/task/{me}/status").read_text():
            assert tracer.poll() is None, "strace could not attach"
            time.sleep(0.001)
