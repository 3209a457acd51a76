"""Low priority for a thread, for the processor and for the disk, where the system offers it (Linux)."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from contextlib import suppress

NICENESS = 10
"""Lower than the training's own threads."""
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
_IOPRIO_WHO_PROCESS = 1
_BEST_EFFORT, _LOWEST = 2, 7
_CLASS_SHIFT = 13


def lower_priority() -> None:
    """Let other threads go first. Threads that this one starts inherit it; what the system refuses stays as it is."""
    if platform.system() != "Linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, thread, _BEST_EFFORT << _CLASS_SHIFT | _LOWEST)
