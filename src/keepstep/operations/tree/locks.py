"""Whether locks hold on a file system: by its type, and by a second try for a lock that is held."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.stores import MOUNTS, SHARED_BY_MACHINES, file_system_of

Lock = Callable[[int, int], None]


class LocksRefused(KeepstepError):
    """Locks don't hold, or can't be trusted, where several processes would have to agree by them."""

    code = "locks"
    exit_code = 8


def check_locks(root: Path, *, mounts: Path = MOUNTS, lock: Lock = fcntl.flock) -> None:
    """Raises LocksRefused with the reason where no budget can be kept by locks below `root`, which must be writable.

    `mounts` is a table of what is mounted; `lock` takes a lock as flock(2) does.
    """
    if (kind := file_system_of(root, mounts)) in SHARED_BY_MACHINES:
        raise _refused(root, f"it lies on {kind}, which several machines may write to: locks of one may not hold there")
    if why := _why_not_held(root, lock):
        raise _refused(root, why)


def _why_not_held(root: Path, lock: Lock) -> str:
    """Why a lock does not hold, "" where it does: a second descriptor must be refused it."""
    home = root / layout.TREE
    made = not home.exists()
    home.mkdir(exist_ok=True)
    probe = home / f"probe-{uuid.uuid4().hex[:8]}"
    descriptors = [os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666) for _ in range(2)]
    try:
        try:
            lock(descriptors[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"its file system gives no locks ({error.strerror or error})"
        try:
            lock(descriptors[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        return "a lock that is held was given a second time: locks don't hold on its file system"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(OSError):
            probe.unlink()
            if made:
                home.rmdir()


def _refused(root: Path, why: str) -> LocksRefused:
    return LocksRefused(
        f"no budget can be kept for the runs below {root}: {why}",
        hint='Give each training its own: attach(trainer, budget="200GB"). And when nothing trains, each run: '
        f"keepstep prune --root {root} --budget 200GB. Or move the runs to a disk of this machine.",
    )
