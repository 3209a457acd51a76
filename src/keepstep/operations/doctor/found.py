"""What a rule sees in one target, and the line where it stands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Where:
    """A line of a file; `line` 0 is the file, or the directory, as a whole."""

    path: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else self.path


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule sees in one target: the sentence that names the values; the settings that it is about.

    `fix` takes the place of the rule's own where it can be said more exactly.
    """

    what: str
    about: tuple[str, ...] = ()
    fix: str = ""
    where: Where | None = None
