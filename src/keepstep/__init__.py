"""Checkpoint management for fine-tuning: never lose progress, never fill the disk, never ship the wrong weights.

Importing keepstep imports neither torch nor transformers; names are loaded when they are first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from keepstep.version import __version__ as __version__

if TYPE_CHECKING:
    from keepstep import transformers
    from keepstep.checkpointer import Checkpointer, Facts
    from keepstep.errors import KeepstepError, Preempted
    from keepstep.integrations.transformers.attaching import attach
    from keepstep.integrations.transformers.exporting.exporter import export
    from keepstep.model import Checkpoint, FileEntry, Kind, State
    from keepstep.retention import (
        All,
        Best,
        Daily,
        Every,
        Hourly,
        Latest,
        Metric,
        Pending,
        Pinned,
        Plan,
        Policy,
        Within,
    )
    from keepstep.run import Exactness, Receipt, ResumePoint, Run

_HOMES = {
    "keepstep.checkpointer": ("Checkpointer", "Facts"),
    "keepstep.errors": ("KeepstepError", "Preempted"),
    "keepstep.integrations.transformers.exporting.exporter": ("export",),
    "keepstep.integrations.transformers.attaching": ("attach",),
    "keepstep.model": ("Checkpoint", "FileEntry", "Kind", "State"),
    "keepstep.retention": (
        "All", "Best", "Daily", "Every", "Hourly", "Latest", "Metric", "Pending", "Pinned", "Plan", "Policy", "Within",
    ),
    "keepstep.run": ("Exactness", "Receipt", "ResumePoint", "Run"),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "All",
    "Best",
    "Checkpoint",
    "Checkpointer",
    "Daily",
    "Every",
    "Exactness",
    "Facts",
    "FileEntry",
    "Hourly",
    "KeepstepError",
    "Kind",
    "Latest",
    "Metric",
    "Pending",
    "Pinned",
    "Plan",
    "Policy",
    "Preempted",
    "Receipt",
    "ResumePoint",
    "Run",
    "State",
    "Within",
    "attach",
    "export",
    "open_run",
    "transformers",
]  # fmt: skip


def open_run(path: str) -> Run:
    """The run in a directory, managed or not, or in a mirror (`s3://bucket/path`): its checkpoints, best, latest,
    resume point. Raises RunNotFound.
    """
    from keepstep.mirror import open_anywhere

    return open_anywhere(path)


def __getattr__(name: str) -> Any:
    if name == "transformers":
        return import_module("keepstep.transformers")
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'keepstep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _show_in_notebooks() -> None:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        import_module("keepstep.notebook").register(shell)


_show_in_notebooks()
