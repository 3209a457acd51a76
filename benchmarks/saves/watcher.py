"""Follows saves in the background until they are durable; the same for every method."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.saves import disk
from benchmarks.saves.methods.base import KEEP, Method


@dataclass(slots=True)
class Save:
    """One save; times in seconds of one monotonic clock.

    `began` to `returned` is the call, `held` what the method held the training up later, `claimed` when the method
    was done, `durable` when every file was synced, by the method or by the watcher.
    """

    step: int
    counts: bool
    began: float
    returned: float = 0.0
    held: float = 0.0
    claimed: float = 0.0
    durable: float = 0.0
    size: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Watcher:
    """A thread that waits for each save, syncs what the method left unsynced, and removes old checkpoints."""

    def __init__(self, method: Method, clock: Callable[[], float]) -> None:
        self._method = method
        self._clock = clock
        self._queue: queue.Queue[Save | None] = queue.Queue()
        self._finished = 0
        self._kept: list[int] = []
        self.saves: list[Save] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """True when every save is durable. Raises what a save failed with."""
        if self.error is not None:
            raise self.error
        return self._finished == len(self.saves)

    def follow(self, save: Save) -> None:
        """Watch a save that was just begun."""
        self.saves.append(save)
        self._queue.put(save)

    def close(self) -> None:
        """Return when nothing is watched any more."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (save := self._queue.get()) is not None:
            try:
                self._finish(save)
            except BaseException as error:
                self.error = error
                return

    def _finish(self, save: Save) -> None:
        path = self._method.path(save.step)
        self._method.wait(save.step)
        save.claimed = self._clock()
        disk.sync(path)
        save.durable = self._clock()
        own = self._method.size(save.step)
        save.size = disk.size(path) if own is None else own
        if not self._method.keeps_two:
            self._kept.append(save.step)
            while len(self._kept) > KEEP:
                disk.remove(self._method.path(self._kept.pop(0)))
        self._finished += 1


def monotonic() -> float:
    """The clock of a course."""
    return time.perf_counter()
