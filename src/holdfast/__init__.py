"""Checkpoint management for fine-tuning: never lose progress, never fill the disk, never ship the wrong weights.

Importing holdfast imports neither torch nor transformers; names are loaded when they are first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast import transformers
    from holdfast.checkpointer import Checkpointer, Facts
    from holdfast.errors import HoldfastError
    from holdfast.integrations.transformers.exporting.exporter import export
    from holdfast.integrations.transformers.managed import attach
    from holdfast.model import Checkpoint, FileEntry, Kind, State
    from holdfast.receipt import Exactness, Receipt
    from holdfast.retention import All, Best, Daily, Every, Hourly, Latest, Metric, Pinned, Plan, Policy, Within
    from holdfast.run import ResumePoint, Run

__version__ = "0.1.0"

_HOMES = {
    "holdfast.checkpointer": ("Checkpointer", "Facts"),
    "holdfast.errors": ("HoldfastError",),
    "holdfast.integrations.transformers.exporting.exporter": ("export",),
    "holdfast.integrations.transformers.managed": ("attach",),
    "holdfast.model": ("Checkpoint", "FileEntry", "Kind", "State"),
    "holdfast.receipt": ("Exactness", "Receipt"),
    "holdfast.retention": (
        "All", "Best", "Daily", "Every", "Hourly", "Latest", "Metric", "Pinned", "Plan", "Policy", "Within",
    ),
    "holdfast.run": ("ResumePoint", "Run"),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "All", "Best", "Checkpoint", "Checkpointer", "Daily", "Every", "Exactness", "Facts", "FileEntry", "HoldfastError",
    "Hourly", "Kind", "Latest", "Metric", "Pinned", "Plan", "Policy", "Receipt", "ResumePoint", "Run", "State",
    "Within", "attach", "export", "open_run", "transformers",
]  # fmt: skip


def open_run(path: str) -> Run:
    """The run in a directory: its checkpoints, best, latest, resume point. Raises RunNotFound."""
    from holdfast.run import Run

    return Run.open(path)


def __getattr__(name: str) -> Any:
    if name == "transformers":
        return import_module("holdfast.transformers")
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _show_in_notebooks() -> None:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        import_module("holdfast.notebook").register(shell)


_show_in_notebooks()
