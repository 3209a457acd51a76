"""Processes that race for the budget of one tree with real bytes, are killed inside of saves, and are watched."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner

from keepstep import layout
from keepstep.checkpointer import Checkpointer, Facts
from keepstep.cli.main import main
from keepstep.errors import DiskFull, RunLocked
from keepstep.model import parse_name
from keepstep.operations.tree import set_budget
from keepstep.retention import Metric, Policy
from keepstep.run import Run, parse_lines

SAVE = 200_000
"""Bytes of the largest save; they vary down to a half."""
LOSS = Metric("eval_loss", "min")
KEEPS = ("latest:1,best:1", "latest:3,best:2", "all")
RUNS = 6


@dataclass
class Seen:
    """What came of a race."""

    commits: int = 0
    refused: int = 0
    removed: Counter[str] = field(default_factory=Counter[str])
    killed: int = 0
    crashed: list[str] = field(default_factory=list[str])
    looks: int = 0
    peak: int = 0
    over: int = 0
    protected: list[str] = field(default_factory=list[str])
    waits: list[float] = field(default_factory=list[float])

    def wait(self, part: float) -> float:
        """Milliseconds that a part of all saves waited for room at the most."""
        ordered = sorted(self.waits) or [0.0]
        return 1000 * ordered[min(int(len(ordered) * part), len(ordered) - 1)]

    def __str__(self) -> str:
        waits = "/".join(f"{self.wait(part):.0f}" for part in (0.5, 0.99, 1.0))
        return (
            f"{self.commits} commits, {self.refused} refused, removed {dict(self.removed)}, {self.killed} killed, "
            f"{self.looks} looks, peak {self.peak}, {self.over} over, {len(self.protected)} protected "
            f"removed, wait for room p50/p99/max {waits} ms, crashed {self.crashed}"
        )


def race(root: Path, *, seconds: float, processes: int, saves: int, dies: float, prunes: bool = False) -> Seen:
    """Let processes train the runs of one tree, whose budget is so many saves; each save dies with that probability.

    With `prunes` a person keeps two saves in reserve, and prunes again and again beside that.
    """
    root.mkdir()
    budget = saves * SAVE
    set_budget(root, budget, 2 * SAVE * prunes)
    seen, end = Seen(), time.monotonic() + seconds
    children: dict[int, int] = {}
    for number in range(processes):
        children[_spawn(root, number, end, dies)] = number
    started = processes
    if prunes:
        children[forked(lambda: _prune(root, end))] = -1
    while children:
        for pid in list(children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            del children[pid]
            code = os.waitstatus_to_exitcode(status)
            seen.killed += code == -signal.SIGKILL
            seen.crashed += [] if code in (0, -signal.SIGKILL) else [f"{pid}: {code}"]
            if time.monotonic() < end:
                children[_spawn(root, started, end, dies)] = started
                started += 1
        assert time.monotonic() < end + 60, "some wait for each other for ever"
        taken = bytes_of(root)
        seen.looks, seen.peak = seen.looks + 1, max(seen.peak, taken)
        seen.over += taken > budget + SAVE
        time.sleep(0.01)
    for path in sorted(root.glob("run-*")):
        _replay(path, seen)
    return seen


def bytes_of(root: Path) -> int:
    """Bytes of the files of checkpoints and records below a root, wherever they lie, each inode once."""
    found: dict[int, int] = {}
    for place, _, names in os.walk(root):
        if not any(part == layout.META or parse_name(part) for part in Path(place).relative_to(root).parts):
            continue
        for name in names:
            with suppress(FileNotFoundError):
                one = os.lstat(os.path.join(place, name))
                found[one.st_ino] = one.st_size
    return sum(found.values())


def _spawn(root: Path, number: int, end: float, dies: float) -> int:
    return forked(lambda: _trainings(root, random.Random(number), end, dies))


def forked(act: Callable[[], None]) -> int:
    """A child that does `act`, and prints what it fails with; returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 2
    try:
        act()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _prune(root: Path, end: float) -> None:
    """What `keepstep prune --root` says of runs that others begin to train meanwhile is an error of theirs alone."""
    while time.monotonic() < end:
        done = CliRunner().invoke(main, ["prune", "--root", str(root), "--yes", "--format", "json"])
        assert done.exit_code in (0, 1, 3, 5), done.output  # the plan changed, no run yet, in use
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        time.sleep(0.3)


def _trainings(root: Path, chance: random.Random, end: float, dies: float) -> None:
    while time.monotonic() < end:
        number = chance.randrange(RUNS)
        policy = Policy.from_spec(KEEPS[number % len(KEEPS)], LOSS)
        checkpointer = Checkpointer(root / f"run-{number}", policy, shared=number % 4 != 3, on_disk_full="continue")
        try:
            point = checkpointer.begin("auto")
        except RunLocked:
            time.sleep(0.01)
            continue
        step = point.checkpoint.step if point else 0
        checkpointer.headroom.expected = SAVE
        for _ in range(chance.randint(3, 12)):
            step += 1
            _save(checkpointer, step, chance, dies)
            if time.monotonic() > end:
                break
        checkpointer.close()


def _save(checkpointer: Checkpointer, step: int, chance: random.Random, dies: float) -> None:
    size = chance.randint(SAVE // 2, SAVE - 20_000)
    deadly = chance.random() < dies
    began = time.monotonic()
    waited: list[float] = []

    def write(directory: Path) -> None:
        waited.append(time.monotonic() - began)
        (directory / "model.bin").write_bytes(os.urandom(size // 2))
        if deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        (directory / "optimizer.bin").write_bytes(os.urandom(size - size // 2))

    try:
        checkpointer.save(Facts(step, metrics={"eval_loss": chance.random()}), write)
    except DiskFull as error:
        checkpointer.refuse(step, error)
        time.sleep(0.02)
    else:
        checkpointer.run.events.append("waited", seconds=waited[0])
    checkpointer.headroom.expected = SAVE


def _replay(path: Path, seen: Seen) -> None:
    """Go through the log of a run: was anything removed that was its newest, or its best, at that time?"""
    there: dict[int, float] = {}
    for event in parse_lines((path / layout.EVENTS).read_bytes().splitlines()):
        match event["event"]:
            case "committed":
                seen.commits += 1
                there[event["generation"]] = event["metrics"]["eval_loss"]
            case "removed":
                generation = event["generation"]
                if generation in (max(there), min(there, key=lambda one: (there[one], one))):
                    seen.protected.append(f"{path.name} generation {generation}: {event['reason']}")
                seen.removed[_kind(event["reason"])] += 1
                del there[generation]
            case "refused":
                seen.refused += 1
            case "waited":
                seen.waits.append(event["seconds"])
            case _:
                pass
    run = Run.open(path)
    if {checkpoint.generation for checkpoint in run.checkpoints} != set(there):
        seen.protected.append(f"{path.name} is not what its log says")
    seen.protected += [f"{path.name}: {c.name} is damaged" for c in run.checkpoints if not run.verify(c).ok]


def _kind(reason: str) -> str:
    if "asked for room" in reason:
        return "on request"
    if ", for " in reason:
        return "of runs at rest"
    if "in reserve" in reason:
        return "by a prune"
    return "its own" if "over the budget" in reason else "by policy"
