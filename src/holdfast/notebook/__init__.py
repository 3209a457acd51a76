"""What runs, checkpoints, plans and checkpointers look like in a notebook: plain HTML, without a script."""

from __future__ import annotations

from functools import partial
from typing import Any

SHOWN = (
    ("holdfast.checkpointer", "Checkpointer", "checkpointer_page"),
    ("holdfast.run", "Run", "run_page"),
    ("holdfast.model", "Checkpoint", "checkpoint_page"),
    ("holdfast.retention.plan", "Plan", "plan_page"),
)
"""Module and name of each type, and the function of `holdfast.notebook.pages` that draws it."""


def register(shell: Any) -> None:
    """Let an IPython shell draw what holdfast returns. Types are named, not imported."""
    formatters = getattr(getattr(shell, "display_formatter", None), "formatters", {})
    html = formatters.get("text/html")
    if html is not None:
        for module, name, page in SHOWN:
            html.for_type_by_name(module, name, partial(_draw, page))


def _draw(page: str, value: Any) -> str | None:
    """The page; None, for the plain text, where the run can't be read."""
    from holdfast.errors import HoldfastError
    from holdfast.notebook import pages

    try:
        return getattr(pages, page)(value)
    except (HoldfastError, OSError):
        return None
