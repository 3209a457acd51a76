"""How often the kernel has killed for want of memory, by every counter that may be read."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def oom_kills(root: Path = Path("/")) -> dict[str, int]:
    """Counts by the file that has them: those of this process's cgroup, where it has none the whole machine's."""
    found = {name: count for name, count in _of_cgroups(root).items() if count is not None}
    if not found and (count := _count(root / "proc/vmstat")) is not None:
        found["/proc/vmstat"] = count
    return found


def rose(before: dict[str, int], after: dict[str, int]) -> bool:
    """True when a counter is higher than it was."""
    return any(count > before[name] for name, count in after.items() if name in before)


def _of_cgroups(root: Path) -> dict[str, int | None]:
    counts: dict[str, int | None] = {}
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, place = line.split(":", 2)
            home, name = ("", "memory.events") if not controllers else ("memory", "memory.oom_control")
            if controllers and "memory" not in controllers.split(","):
                continue
            # In a container the cgroup of this process is often mounted as if it were the root.
            for inside in dict.fromkeys((place.strip("/"), "")):
                file = root / "sys/fs/cgroup" / home / inside / name
                counts[str(file)] = _count(file)
    return counts


def _count(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        found = _KILLS.search(file.read_text(encoding="utf-8"))
        return int(found[1]) if found else None
    return None
