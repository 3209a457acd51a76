"""Text files as people write them, and the comments in them that ask to leave a rule out."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

from keepstep.errors import SettingsError
from keepstep.operations.doctor.found import Where

LARGEST = 5 * 10**6
"""Bytes above which a file is no script that a person wrote."""
IGNORE = re.compile(r"#\s*keepstep:\s*ignore\b(?!-)[\s:=]*([A-Z0-9,\s]*)")
NOTHING: frozenset[str] = frozenset()


class Ignored:
    """The ids that comments ask to leave out, by place; files are looked at where a finding names them."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[Where, frozenset[str]]] = {}

    def at(self, where: Where, place_of: Callable[[Where], Where] | None = None) -> frozenset[str]:
        """Those on a line; `*` is all of them."""
        if not where.line or not where.path.endswith(_COMMENTED):
            return NOTHING
        if where.path not in self._lines:
            self._lines[where.path] = _ignored_in(Path(where.path), place_of)
        return self._lines[where.path].get(where, NOTHING)


_COMMENTED = (".py", ".yaml", ".yml", ".ipynb", ".sh", ".bash", ".sbatch", ".slurm", ".batch", ".job")


def _ignored_in(path: Path, place_of: Callable[[Where], Where] | None) -> dict[Where, frozenset[str]]:
    try:
        text = read_text(path)
    except (OSError, SettingsError):
        return {}
    python = path.suffix == ".py"
    if path.suffix == ".ipynb":
        from keepstep.operations.doctor.reading.notebook import read_notebook

        text = read_notebook(path, text).text
    found = {Where(str(path), line): ids for line, ids in ignored_lines(text, python=python).items()}
    return {place_of(where): ids for where, ids in found.items()} if place_of and path.suffix == ".ipynb" else found


def read_text(path: Path) -> str:
    """A text file's content. Raises SettingsError for a huge one, or one that is no text, and OSError."""
    if path.stat().st_size > LARGEST:
        raise SettingsError(
            f"{path} is too large to be a script or a config", hint="Give the file that a person wrote."
        )
    try:
        with tokenize.open(path) if path.suffix == ".py" else path.open(encoding="utf-8") as file:
            return file.read()
    except (UnicodeDecodeError, SyntaxError):
        raise SettingsError(
            f"{path} is no text", hint="Give a Python script, a YAML file, or a run directory."
        ) from None


def ignored_lines(text: str, *, python: bool) -> dict[int, frozenset[str]]:
    """Ids in comments such as `# keepstep: ignore W204`, by line; without an id, all (`*`)."""
    found: dict[int, frozenset[str]] = {}
    for line, comment in _comments(text) if python else enumerate(text.splitlines(), start=1):
        if match := IGNORE.search(comment):
            found[line] = frozenset(re.findall(r"[EWI]\d+", match[1])) or frozenset("*")
    return found


def _comments(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
