"""The words in which the stock Trainer says that nothing can be resumed: scripts look for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keepstep.errors import KeepstepError

NEWEST = ("auto", "latest")
"""What asks for the newest checkpoint of the directory, beside True."""


@contextmanager
def in_stock_words(resume: Any, trainer: Any, kind: type[KeepstepError]) -> Iterator[None]:
    """While it lasts, an error of a kind, that `resume` is nothing to resume from, begins with what stock would say."""
    try:
        yield
    except kind as error:
        said = f"{_words(resume, trainer)}: {error.message}"
        raise type(error)(said, hint=error.hint) from error


def _words(resume: Any, trainer: Any) -> str:
    """Those of `Trainer.train` and of `Trainer._load_from_checkpoint`, which raise ValueError."""
    if resume is True or resume in NEWEST:
        return f"No valid checkpoint found in output directory ({trainer.args.output_dir})"
    return f"Can't find a valid checkpoint at {resume}"
