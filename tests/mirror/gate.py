"""A place that answers and takes data only when a test lets it, and what is seen and told of it meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from keepstep.errors import MirrorUnavailable
from keepstep.mirror import DirectoryObjects
from keepstep.operations.seeing.mirrored import Mirrored, mirrored_of
from keepstep.run import Event, Run


class Gate(DirectoryObjects):
    """A place where data arrives while the gate is open, and that answers while it is up."""

    busy, through, up = threading.Event(), threading.Event(), threading.Event()

    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        if key.startswith("data/"):
            self.busy.set()
            assert self.through.wait(120)
        super().put(key, pieces, size)

    def create(self, key: str, data: bytes) -> bool:
        self._answer()
        return super().create(key, data)

    def list(self, prefix: str) -> object:  # type: ignore[override]
        self._answer()
        return super().list(prefix)

    def _answer(self) -> None:
        if not self.up.is_set():
            raise MirrorUnavailable("no answer from the place")


def until(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def seen(path: Path) -> Mirrored:
    run = Run.open(path)
    found = mirrored_of(run, run.checkpoints, alive=run.lock.in_use)
    assert found is not None
    return found


def told(path: Path, name: str) -> list[Event]:
    return [event for event in Run.open(path).events.read() if event["event"] == name]
