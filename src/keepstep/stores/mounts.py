"""What file system a path lies on, as the table of mounts says it."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
"""What is mounted where, on Linux (proc_pid_mountinfo(5))."""


def file_system_of(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that a path lies on, such as `ext4` or `nfs4`; "" where nobody says."""
    place = os.path.realpath(path)
    found: tuple[int, str] = (0, "")
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        # 36 35 98:0 /root /mount/point options - type source options
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or not kinds:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= found[0]:  # of two at one place the later one lies on top
            found = (len(point), kinds[0])
    return found[1]
