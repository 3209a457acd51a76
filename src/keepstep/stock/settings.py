"""What a training's own arguments say, from the file that the Trainer saves beside a checkpoint; nothing is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep.formats.arguments_file import ARGUMENTS_NAME, CLASS, UnreadableArguments, read_training_arguments


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


def settings_of(checkpoint: Path) -> Settings | None:
    """The settings in a checkpoint's directory; None where there are none, or none that can be read."""
    try:
        values = read_training_arguments(checkpoint / ARGUMENTS_NAME)
    except (OSError, UnreadableArguments):
        return None
    kind = str(values.pop(CLASS, ""))
    return Settings(values, kind)
