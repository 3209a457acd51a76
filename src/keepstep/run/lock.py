"""One writer per run: a lock that the kernel releases when its process dies, and a note of who holds it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from keepstep import layout
from keepstep.errors import RunLocked, StorageError
from keepstep.stores import HubSnapshot, Store, denied, read_only

if TYPE_CHECKING:
    from filelock import FileLock

_CLOCK_SLACK = 60.0
"""Seconds by which a process that seems to have begun after it took the lock may be the same all the same."""
GRACE_SECONDS = 15.0
"""How long to wait for a lock whose holder is dead: its data loader workers outlive it by some seconds."""
MOMENT_SECONDS = 1.0
"""How long to wait for a lock that nobody has put a note to: it is held for a moment, or the disk was full."""


class Owner(msgspec.Struct):
    """Who holds the lock: process id, host, and since when (UTC)."""

    pid: int
    host: str
    since: datetime


class RunLock:
    """The lock of one run directory. Entering twice in one process is an error, like a second process."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def _lock(self) -> FileLock:
        from filelock import FileLock  # it costs every command 30 ms, and few take the lock

        return FileLock(self._store.local_path(layout.LOCK), is_singleton=False, thread_local=False)

    @property
    def held(self) -> bool:
        """True while this object holds the lock."""
        return "_lock" in self.__dict__ and self._lock.is_locked

    @property
    def in_use(self) -> bool:
        """True while a process holds the lock, this one included. It is only asked for, never taken: whoever looks on
        must not be in the way of a training that begins. A holder on another host counts as alive.
        """
        owner = self.owner()
        return self.held or (owner is not None and not _is_dead(owner))

    def acquire(self, what: str = "") -> None:
        """Take the lock. Raises RunLocked, naming the holder and the ways out; StorageError in a cache of the Hub,
        ReadOnly, AccessDenied. `what` is to be done, where that is no training.
        """
        from filelock import Timeout

        if isinstance(self._store, HubSnapshot):
            raise StorageError(
                f"{self._store.root} lies in the Hub's cache, which is only read from",
                hint="Download it to a directory of its own: hf download REPOSITORY --local-dir DIR",
            )
        try:
            self._store.make_directory(layout.META)
            self._take()
        except Timeout:
            raise self._refusal(what) from None
        except PermissionError as error:
            raise denied(self._store.local_path(layout.LOCK), error, write=True) from error
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            raise read_only(self._store.local_path("")) from error
        owner = Owner(os.getpid(), os.uname().nodename, datetime.now(UTC))
        # Only a note for messages: a full disk must not keep a run from clearing what filled it.
        with suppress(OSError):
            self._store.replace(layout.OWNER, msgspec.json.encode(owner))

    def release(self) -> None:
        """Give the lock back; no error when it is not held."""
        if self.held:
            with suppress(OSError):
                self._store.delete(layout.OWNER)
            self._lock.release()

    @contextmanager
    def momentarily(self) -> Generator[bool]:
        """Hold the lock while the block lasts where nobody has it; gives False, at once, where somebody does.

        No note says who holds it: whoever begins meanwhile waits for the moment that it takes.
        """
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except (Timeout, OSError, NotImplementedError):
            yield False
            return
        try:
            yield True
        finally:
            self._lock.release()

    def owner(self) -> Owner | None:
        """Who last took the lock and did not give it back, None when unknown."""
        try:
            return msgspec.json.decode(self._store.read(layout.OWNER, limit=layout.SMALL_FILE_LIMIT), type=Owner)
        except (OSError, *layout.NOT_JSON):
            return None

    def _take(self) -> None:
        from filelock import Timeout

        began = time.monotonic()
        while True:
            try:
                self._lock.acquire(timeout=0)
                return
            except Timeout:
                owner = self.owner()
                patience = MOMENT_SECONDS if owner is None else GRACE_SECONDS * _is_dead(owner)
                if time.monotonic() > began + patience:
                    raise
                time.sleep(0.02 if owner is None else 0.1)

    def _refusal(self, what: str) -> RunLocked:
        owner = self.owner()
        who = "another process"
        if owner is not None:
            who = f"process {owner.pid} on {owner.host} since {owner.since:%Y-%m-%d %H:%M:%S} UTC"
        run = self._store.local_path("")
        if what:
            return RunLocked(
                f"{run} is in use by {who}: {what} would get in its way, and nothing was changed",
                hint="Wait until it is over, or stop it.",
            )
        return RunLocked(
            f"{run} is in use by {who}: two runs in one directory would destroy each other's checkpoints",
            hint="Wait for it or stop it, or give this run its own output_dir.",
        )


def _is_dead(owner: Owner | None) -> bool:
    if owner is None or owner.host != os.uname().nodename:
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _began_after(owner)


def _began_after(owner: Owner) -> bool:
    """True when the process of that id began after the lock was taken: it is another one, the holder is gone.

    Told from /proc (proc_pid_stat(5): field 22, in clock ticks since the machine was started); False elsewhere.
    """
    try:
        with open(f"/proc/{owner.pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, IndexError, AttributeError):
        return False
    began = time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    return began > owner.since.timestamp() + _CLOCK_SLACK
