"""The machine and the versions that results belong to."""

from __future__ import annotations

import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("keepstep", "torch", "transformers", "accelerate", "peft", "safetensors", "numpy"),
    *("moonclip", "lightning", "orbax-checkpoint", "jax", "tensorstore"),
)


def describe(directory: Path) -> dict[str, Any]:
    """Plain values: processor, cores, memory, file system of `directory`, kernel, versions."""
    return {
        "date": date.today().isoformat(),
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "file_system": _file_system(directory),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def sentence(machine: dict[str, Any]) -> str:
    """One line for the head of a report."""
    memory = machine["memory_bytes"] / 1e9
    return (
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, {memory:.0f} GB of memory, "
        f"{machine['file_system']}, Linux {machine['kernel']}, Python {machine['python']}, "
        + ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    )


def _field(path: str, name: str) -> str:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), platform.machine())


def _file_system(directory: Path) -> str:
    """Type and kind of device of the mount that holds a directory."""
    best, found = "", "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        device, mount, kind, *_ = line.split()
        if directory.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, found = mount, f"{kind} on {device}"
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
