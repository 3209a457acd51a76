"""A notebook as one Python text: its code cells, with the lines that are for IPython and for the shell taken out.

Format: nbformat 4.
"""

from __future__ import annotations

import ast
import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from keepstep.errors import SettingsError
from keepstep.operations.doctor.found import Where

_MAGIC = re.compile(r"\s*([!%?]|[\w.]+\?+\s*$)")
_ASSIGNED = re.compile(r"(\s*)[\w, ]+=\s*[!%]")
_KEPT = ("%%capture", "%%time", "%%timeit")
"""Magics of a cell whose code runs as it is."""
_SHELL = ("%%bash", "%%sh", "%%shell", "%%script bash", "%%script sh")


@dataclass(frozen=True, slots=True)
class Notebook:
    """The text of all code cells; `starts` are the lines of it at which cells begin, `shell` the lines for a shell with
    their place, and `broken` the cells that are no Python.
    """

    text: str
    starts: tuple[int, ...]
    shell: tuple[tuple[str, int], ...]
    broken: tuple[int, ...]
    path: str

    def place(self, where: Where) -> Where:
        """The cell and its line, of a line of the text."""
        if where.path != self.path or where.cell or not where.line or not self.starts:
            return where
        cell = bisect_right(self.starts, where.line)
        return Where(self.path, where.line - self.starts[max(cell - 1, 0)] + 1, max(cell, 1))


def read_notebook(path: Path, text: str) -> Notebook:
    """Raises SettingsError for a text that is no notebook."""
    lines: list[str] = []
    starts: list[int] = []
    shell: list[tuple[str, int]] = []
    broken: list[int] = []
    for number, source in enumerate(_code_cells(path, text), start=1):
        starts.append(len(lines) + 1)
        kept = _python(source, len(lines) + 1, shell)
        try:
            ast.parse(kept)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            broken.append(number)
            kept = "\n" * kept.count("\n")
        lines += kept.split("\n")
    return Notebook("\n".join(lines) + "\n", tuple(starts), tuple(shell), tuple(broken), str(path))


def _code_cells(path: Path, text: str) -> list[str]:
    try:
        loaded: Any = json.loads(text)
        cells = cast("list[dict[str, Any]]", loaded["cells"])
        sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        return ["".join(source) if isinstance(source, list) else str(source) for source in sources]  # pyright: ignore[reportUnknownArgumentType]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SettingsError(f"{path} is no notebook", hint="Open and save it in Jupyter, or give its script.") from None


def _python(source: str, first: int, shell: list[tuple[str, int]]) -> str:
    """A cell's code with as many lines as before; what is for the shell is added to `shell`."""
    lines = source.split("\n")
    head = next((line.strip() for line in lines if line.strip()), "")
    if head.startswith("%%") and not head.startswith(_KEPT):
        if head.startswith(_SHELL):
            shell.append(("\n".join(["", *lines[1:]]), first))
        return "\n" * (len(lines) - 1)
    kept: list[str] = []
    continued = False
    for number, line in enumerate(lines):
        magic = _MAGIC.match(line)
        if continued or magic:
            stripped = line.lstrip()
            if continued and shell:
                shell[-1] = (f"{shell[-1][0]}\n{line}", shell[-1][1])
            elif stripped.startswith(("!", "%sx ", "%run ")):
                command = re.sub(r"^(!+|%sx |%run )", "", stripped)
                shell.append((f"python {command}" if stripped.startswith("%run ") else command, first + number))
            continued = line.rstrip().endswith("\\") and (continued or stripped.startswith("!"))
            indent = line[: len(line) - len(stripped)]
            kept.append(f"{indent}pass" if magic else "")
        elif match := _ASSIGNED.match(line):
            kept.append(f"{match[1]}pass")
        else:
            kept.append(line)
    return "\n".join(kept)
