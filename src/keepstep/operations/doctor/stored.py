"""The arguments that an earlier start left in its checkpoints: `training_args.bin`, read without running it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keepstep.formats.arguments_file import ARGUMENTS_NAME, CLASS, UnreadableArguments, read_training_arguments
from keepstep.operations.doctor import surroundings
from keepstep.operations.doctor.facts import Facts
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.settings import DEFAULTS, OLD_NAMES, Argument, Given, Settings, Source


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file holds: the arguments by name, and the class that they are of."""

    directory: Path
    path: Path
    kind: str
    values: dict[str, Argument]

    @property
    def trl(self) -> bool:
        return self.kind.startswith("trl.")


def stored_in(directory: Path) -> Stored | None:
    """The arguments in the newest checkpoint of a directory that has them, else beside it; None without any."""
    steps = reversed(surroundings.checkpoints_in(directory))
    for path in (*(directory / f"checkpoint-{step}" / ARGUMENTS_NAME for step in steps), directory / ARGUMENTS_NAME):
        try:
            found = read_training_arguments(path)
        except (OSError, UnreadableArguments):
            continue
        return Stored(directory, path, str(found[CLASS]), _values(found, path))
    return None


def facts_of_stock(stored: Stored) -> Facts:
    """Facts of a directory that the stock Trainer writes to."""
    directory = str(stored.directory)
    return Facts(
        "stock",
        Where(directory),
        Settings(stored.values, trl=stored.trl),
        resume_known=False,
        place=surroundings.look_at(directory),
    )


def complete_from(facts: Facts, stored: Stored) -> Facts:
    """A script's facts with what an earlier start of it had, where the script leaves a value to its command line."""
    if facts.command is not None:
        return facts
    settings = facts.settings
    known = {name: value for name, value in settings.values.items() if isinstance(value, Given) and not value.unless}
    if settings.complete and len(known) == len(settings.values):
        return facts
    values = {**settings.values, **stored.values, **known}
    names = {*settings.unread, settings.why_incomplete}
    left = tuple(line for line in facts.unread if line not in names)
    return replace(facts, settings=Settings(values, trl=settings.trl), unread=left, command=Where(str(stored.path)))


def _values(found: dict[str, Any], path: Path) -> dict[str, Argument]:
    where = Where(str(path))
    names = {OLD_NAMES.get(name, name): value for name, value in found.items() if value is not None or name in DEFAULTS}
    known = {name: value for name, value in names.items() if name in DEFAULTS or name == "optim"}
    # Where nobody said it, transformers has put its own guess there.
    guess = not str(known.get("metric_for_best_model") or "").endswith("loss")
    if known.get("greater_is_better") is guess:
        del known["greater_is_better"]
    return {name: Given(value, 0, Source.FILE, where) for name, value in known.items()}
