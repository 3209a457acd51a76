"""Host memory for one snapshot: aligned, touched once, used again by every save."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from keepstep.formats.memory import PAGE, aligned_buffer, touch

SHARE = 0.5
"""The part of the memory that is free when the arena grows that it may take, where no limit is given."""
_UNLIMITED = 2**63
OnMemory = Callable[[memoryview], None]


class ArenaTooSmallError(MemoryError):
    """The state does not fit into the memory that the arena may take."""


class Arena:
    """One buffer that every save copies into. One snapshot at a time owns it.

    `limit` is in bytes; None is half of what is free when it grows, or the `share` of this process in that. `pin` and
    `unpin` hear of memory that is taken and let go: a device may want to reach it.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        share: float = 1.0,
        pin: OnMemory | None = None,
        unpin: OnMemory | None = None,
    ) -> None:
        self._limit = limit
        self._share = SHARE * share
        self._pin = pin
        self._unpin = unpin
        self._buffer = memoryview(bytearray())
        self._guard = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes held now."""
        return self._buffer.nbytes

    def reserve(self, size: int) -> memoryview:
        """At least `size` bytes, page-aligned; what they held is lost. Raises ArenaTooSmallError."""
        with self._guard:
            if size > self.size:
                self._grow(size)
            return self._buffer

    def prepare(self, size: int) -> None:
        """Take `size` bytes in a thread: the first touch of memory costs ten times what a copy into it does.

        Nothing happens where it may not be that much; `reserve` waits for what is under way.
        """
        threading.Thread(target=self._prepare, args=(size,), name="keepstep-arena", daemon=True).start()

    def _prepare(self, size: int) -> None:
        with suppress(ArenaTooSmallError):
            self.reserve(size)

    def _grow(self, size: int) -> None:
        if self._unpin is not None:
            self._unpin(self._buffer)
        self._buffer = memoryview(bytearray())
        allowed = self._limit if self._limit is not None else int(available_memory() * self._share)
        if size > allowed:
            raise ArenaTooSmallError(f"the state has {size:,} bytes, the copy of it may take {allowed:,}")
        self._buffer = aligned_buffer(-(-size // PAGE) * PAGE, huge=True)
        touch(self._buffer)
        if self._pin is not None:
            self._pin(self._buffer)


def available_memory() -> int:
    """Bytes that can be taken without swapping: what the system says, or the control group where that is less."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(free, _group_headroom())


def _group_headroom() -> int:
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text("ascii"))
        return max(limit - int((group / "memory.current").read_text("ascii")), 0)
    except (OSError, ValueError):
        return _UNLIMITED
