"""Trainings on several processes, as torchrun starts them: one child of the fork server for each rank."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.training import processes
from tests.training.course import Job, Kill, train
from tests.training.tiny import Recipe

WORLD = 2
EVERY = None
"""In place of a rank: all of them."""
WRITES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree")
"""Audit events of what changes a directory; files that are opened to be written are an event of their own."""


def run_ranks(home: Path, function: Callable[..., None], *arguments: Any, world: int = WORLD) -> list[int]:
    """`function(rank, *arguments)` in a process for each rank; returns their exit codes. None of them may hang."""
    home.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.start()
    with ThreadPoolExecutor(world) as pool:
        calls = [
            pool.submit(processes.call, _as_rank, rank, world, port, function, arguments, log=log_path(home, rank))
            for rank in range(world)
        ]
        return [call.result() for call in calls]


def _as_rank(rank: int, world: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in numbers.items()}}
    function(rank, *arguments)


def log_path(home: Path, rank: int) -> Path:
    """What a rank printed."""
    return home / f"log-{rank}"


def logs_of(home: Path) -> str:
    """The end of what every rank printed."""
    return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-2500:]}" for path in sorted(home.glob("log-*")))


def home_of(home: Path, rank: int) -> Path:
    """Where a rank leaves its outcome; rank 0's has the run beside it."""
    return home if rank == 0 else home / f"rank-{rank}"


def course(home: Path, recipe: Recipe, *kills: Kill, victim: int | None = EVERY, world: int = WORLD) -> list[int]:
    """One life of a training in `home/run`, in which `victim`, or every rank, has the traps; returns exit codes."""
    return run_ranks(home, _train, home, recipe, kills, victim, world=world)


def complete(home: Path, recipe: Recipe, *kills: Kill, victim: int | None = EVERY, world: int = WORLD) -> Path:
    """A training that is killed at each of `kills`, all ranks or one, and then ends."""
    for kill in kills:
        codes = course(home, recipe, kill, victim=victim, world=world)
        dead = range(world) if victim is EVERY else [victim]
        assert any(codes[rank] == processes.SIGKILLED for rank in dead) and 0 not in codes, f"{codes} {logs_of(home)}"
    codes = course(home, recipe, world=world)
    assert codes == [0] * world, f"{codes} {logs_of(home)}"
    return home


def _train(rank: int, home: Path, recipe: Recipe, kills: tuple[Kill, ...], victim: int | None) -> None:
    if rank:
        forbid_writing(home / "run")
    mine = kills if victim in (EVERY, rank) else ()
    train(Job(recipe, home / "run", home_of(home, rank) / "outcome", mine))


BELOW_A_DESCRIPTOR = ("os.remove", "os.rmdir")


def forbid_writing(directory: Path) -> None:
    """Make this process fail as soon as it would change anything in `directory`."""
    below = os.fspath(directory)

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event in WRITES or (event == "open" and _writes(details[1], details[2])):
            touched = [part for part in details[:2] if isinstance(part, (str, os.PathLike))]
            if isinstance(details[-1], int) and event in BELOW_A_DESCRIPTOR and details[-1] >= 0:
                return  # relative to an open directory: shutil.rmtree, which told the whole path before
            if any(os.path.abspath(os.fspath(part)).startswith(below) for part in touched):
                raise AssertionError(f"{event} {details}")

    sys.addaudithook(watch)


def _writes(mode: Any, flags: Any) -> bool:
    by_mode = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    return by_mode or (isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
