"""Values as they are known: each with its source, several by name, and what follows from several of them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from keepstep.operations.doctor.settings import Argument, Given, Source

COMMAND_LINE = "the command line"
ENVIRONMENT = "the environment"
"""What may say otherwise than a default."""


class NotLiteral(Exception):
    """The expression depends on more than what is read; the message says on what, empty where that has no name."""


@dataclass(slots=True)
class Record:
    """Values by name: a dict, a dataclass, what a parser makes. `rest` says why others are not known, empty where there
    are no others; `kind` is the class.
    """

    fields: dict[str, Argument] = field(default_factory=dict[str, Argument])
    rest: str = ""
    kind: str = ""

    def __getitem__(self, name: str) -> Given:
        """Raises NotLiteral."""
        found = self.fields.get(name)
        if isinstance(found, Given):
            return found
        raise NotLiteral((found.cause or found.text) if found else self.rest)

    def has(self, name: str) -> bool:
        """True when it is known that the name is there or is not. Raises NotLiteral."""
        if name not in self.fields and self.rest:
            raise NotLiteral(self.rest)
        return name in self.fields

    def copy(self) -> Record:
        return replace(self, fields=dict(self.fields))


def follows(value: Any, parts: Iterable[Given], line: int = 0) -> Given:
    """A value that follows from others: it is as firm as the weakest of them, and stands where that one does."""
    given = list(parts)
    weakest = max(given, key=_weakness, default=None)
    if weakest is None or weakest.source is Source.LITERAL:
        return Given(value, line)
    return replace(weakest, value=value, line=line or weakest.line)


def at(given: Given, line: int) -> Given:
    """A value as it is used in a line. What is written in the text itself stands there too, for whoever reads it."""
    return replace(given, line=line)


def plain(value: Any) -> Any:
    """Without records and their sources. Raises NotLiteral where a part is not known."""
    if isinstance(value, Record):
        return {name: plain(value[name].value) for name in value.fields}
    if isinstance(value, list):
        return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def last_name(node: ast.expr | None) -> str:
    """The last part of a dotted name: `SFTConfig` of `trl.SFTConfig`; empty for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def shown(node: ast.expr) -> str:
    """The expression as it may be quoted in one line."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


_LONGEST = 60
_WEAKNESS = {Source.LITERAL: 0, Source.FILE: 1, Source.COMMAND_LINE: 2, Source.DEFAULT: 3}


def _weakness(given: Given) -> tuple[bool, int]:
    return bool(given.unless), _WEAKNESS[given.source]
