"""A fault injector: a local store that kills its process, fails, or stops half-way at the n-th change it makes."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from unittest.mock import patch

from keepstep.stores import LocalStore

Moment = Literal["before", "half", "after"]
"""When a fault strikes: before the change, half-way through it (a short write), or after it was made."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at change number `at` (from 1): the process dies where `number` is None, else OSError with that errno.

    A sticky fault strikes at every later change too, as a disk does that is full or was remounted read-only.
    """

    at: int
    number: int | None = errno.EIO
    sticky: bool = False
    moment: Moment = "before"

    def strikes(self, change: int) -> bool:
        """True when the change of that number meets this fault."""
        return change == self.at or (self.sticky and change > self.at)

    def strike(self, path: str) -> None:
        """Kill the process or raise."""
        if self.number is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise OSError(self.number, os.strerror(self.number), path)


Result = TypeVar("Result")


class Injector:
    """Counts changes, and lets one fault strike. Without a fault it is the dry run that tells how many there are."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self.changes: list[tuple[str, str]] = []
        """What was done so far: operation and path."""

    def run(
        self, operation: str, path: str, change: Callable[[], Result], half: Callable[[], None] | None = None
    ) -> Result:
        """Make a change, or meet the fault; `half` does a part of it."""
        self.changes.append((operation, path))
        fault = self.fault
        if fault is None or not fault.strikes(len(self.changes)):
            return change()
        if fault.moment == "after":
            change()
        elif fault.moment == "half" and half is not None:
            half()
        fault.strike(path)
        raise AssertionError("unreachable")

    @contextmanager
    def injected(self) -> Generator[Injector]:
        """Every run that is opened inside has a `FaultyStore` of this injector."""

        def make(root: Path | str) -> LocalStore:
            return FaultyStore(root, self)

        with ExitStack() as replaced:
            for place in ("stores.hub_cache.LocalStore", "run.run.LocalStore", "checkpointer.entrance.LocalStore"):
                replaced.enter_context(patch(f"keepstep.{place}", make))
            yield self


class FaultyStore(LocalStore):
    """A `LocalStore` whose changes go through an injector."""

    def __init__(self, root: Path | str, injector: Injector) -> None:
        super().__init__(root)
        self.injector = injector

    def make_directory(self, path: str, *, durable: bool = True) -> None:
        if self.local_path(path).is_dir():
            return
        plain = super()
        self.injector.run("make_directory", path, lambda: plain.make_directory(path, durable=durable))

    def write(self, path: str, data: bytes) -> None:
        plain = super()
        self.injector.run("write", path, lambda: plain.write(path, data), lambda: plain.write(path, _half(data)))

    def append(self, path: str, data: bytes, *, durable: bool) -> None:
        plain = super()
        self.injector.run(
            "append",
            path,
            lambda: plain.append(path, data, durable=durable),
            lambda: plain.append(path, _half(data), durable=durable),
        )

    def replace(self, path: str, data: bytes, *, workplace: str | None = None) -> None:
        plain = super()
        target = self.local_path(path)

        home = target.parent if workplace is None else self.local_path(workplace)

        def half() -> None:
            (home / f".{target.name}.half.tmp").write_bytes(_half(data))

        self.injector.run("replace", path, lambda: plain.replace(path, data, workplace=workplace), half)

    def sync_file(self, path: str) -> None:
        plain = super()
        self.injector.run("sync_file", path, lambda: plain.sync_file(path))

    def sync_directory(self, path: str) -> None:
        plain = super()
        self.injector.run("sync_directory", path, lambda: plain.sync_directory(path))

    def rename(self, source: str, target: str) -> None:
        plain = super()
        self.injector.run("rename", source, lambda: plain.rename(source, target))

    def exchange(self, one: str, other: str) -> bool:
        plain = super()
        return self.injector.run("exchange", one, lambda: plain.exchange(one, other))

    def link(self, source: str, target: str) -> bool:
        plain = super()
        return self.injector.run("link", target, lambda: plain.link(source, target))

    def delete(self, path: str) -> None:
        plain = super()

        def half() -> None:
            first = next((entry for entry in self.walk(path) if entry.kind == "file"), None)
            if first is not None:
                plain.delete(f"{path}/{first.path}")

        self.injector.run("delete", path, lambda: plain.delete(path), half)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]
