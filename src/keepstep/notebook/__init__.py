"""What runs, checkpoints, plans and checkpointers look like in a notebook: plain HTML, without a script."""

from __future__ import annotations

from functools import partial
from typing import Any

SHOWN = (
    ("keepstep.checkpointer.checkpointer", "Checkpointer", "checkpointer_page"),
    ("keepstep.run.run", "Run", "run_page"),
    ("keepstep.model", "Checkpoint", "checkpoint_page"),
    ("keepstep.retention.plan", "Plan", "plan_page"),
)
"""Module and name of each type, and the function of `keepstep.notebook.pages` that draws it."""


def register(shell: Any) -> None:
    """Let an IPython shell draw what keepstep returns. Types are named, not imported."""
    formatters = getattr(getattr(shell, "display_formatter", None), "formatters", {})
    html = formatters.get("text/html")
    if html is not None:
        for module, name, page in SHOWN:
            html.for_type_by_name(module, name, partial(_draw, page))


def _draw(page: str, value: Any) -> str | None:
    """The page; None, for the plain text, where the run can't be read."""
    from keepstep.errors import KeepstepError
    from keepstep.notebook import pages

    try:
        return getattr(pages, page)(value)
    except (KeepstepError, OSError):
        return None
