"""What a rule sees in one target, and the line where it stands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Where:
    """A line of a file; `line` 0 is the file, or the directory, as a whole. In a notebook `cell` counts the code cells
    from 1, and the line is that of the cell.
    """

    path: str
    line: int = 0
    cell: int = 0

    def __str__(self) -> str:
        path = f"{self.path}[{self.cell}]" if self.cell else self.path
        return f"{path}:{self.line}" if self.line else path


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule sees in one target: the sentence that names the values; the settings that it is about.

    `fix`, `title` and `why` take the place of the rule's own where they can be said more exactly.
    """

    what: str
    about: tuple[str, ...] = ()
    fix: str = ""
    where: Where | None = None
    title: str = ""
    why: str = ""
