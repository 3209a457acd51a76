"""What a training's own arguments say, from the file that the Trainer saves beside a checkpoint; nothing is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from keepstep.formats.arguments_file import ARGUMENTS_NAME, CLASS, UnreadableArguments, read_training_arguments
from keepstep.retention import Metric, known_mode

USUAL_METRIC = "eval_loss"
"""By which checkpoints rank where the training names none."""
_QUICK = 2**16
_NAMES_NONE = re.compile(rb"X\x15\x00\x00\x00metric_for_best_model(?:q.|r.{4})N", re.DOTALL)
"""The name of the setting as protocol 2 of pickle writes it, and None for its value (PEP 307, pickletools)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of a training by name, as plain values; `kind` is the dotted name of their class."""

    values: Mapping[str, Any]
    kind: str

    @property
    def metric(self) -> str | None:
        """The metric that chooses the best, by the name it is logged under; None where none is named."""
        named = self.values.get("metric_for_best_model")
        if not isinstance(named, str) or not named:
            return None
        return named if named.startswith("eval_") else f"eval_{named}"

    @property
    def greater_is_better(self) -> bool | None:
        """Whether a greater value of it is better; None where that is not said."""
        said = self.values.get("greater_is_better")
        return said if isinstance(said, bool) else None

    @property
    def ranked(self) -> Metric | None:
        """The metric that chooses the best, with its direction."""
        if self.metric is None:
            return None
        greater = self.greater_is_better
        return Metric(self.metric, known_mode(self.metric) or "min" if greater is None else "max" if greater else "min")


def named_metric(checkpoint: Path) -> Metric | Literal[False] | None:
    """The metric that the arguments in a checkpoint's directory name, None where they name none, False where they can't
    be read.
    """
    try:
        with open(checkpoint / ARGUMENTS_NAME, "rb") as file:
            start = file.read(_QUICK)
    except OSError:
        return False
    if _NAMES_NONE.search(start):
        return None  # what most trainings say, and a tenth of the time that it takes to read everything
    settings = settings_of(checkpoint)
    return False if settings is None else settings.ranked


def settings_of(checkpoint: Path) -> Settings | None:
    """The settings in a checkpoint's directory; None where there are none, or none that can be read."""
    try:
        values = read_training_arguments(checkpoint / ARGUMENTS_NAME)
    except (OSError, UnreadableArguments):
        return None
    kind = str(values.pop(CLASS, ""))
    return Settings(values, kind)
