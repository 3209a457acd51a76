"""Names of the settings that a training's YAML file may have, read from the sources of transformers and TRL."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

_SOURCES = {
    "transformers": ("training_args.py",),
    "trl": ("trainer/*_config.py", "scripts/utils.py", "scripts/_utils.py"),
}
_OWN = frozenset({"env", "config"})
"""What `trl` itself takes out of the file before anything else reads it (trl/scripts/utils.py)."""


def unknown_settings(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Of these names those that nobody reads, each with the nearest one that is read, or an empty text.

    Empty where transformers or TRL is not installed: their settings are not known then.
    """
    known = known_settings()
    if not known:
        return ()
    unread = [name for name in names if name not in known]
    return tuple((name, next(iter(difflib.get_close_matches(name, known, 1)), "")) for name in unread)


@lru_cache(maxsize=1)
def known_settings() -> frozenset[str]:
    """The fields of TrainingArguments and of TRL's configs, from their text: importing TRL takes seconds."""
    found: set[str] = set()
    for package, patterns in _SOURCES.items():
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return frozenset()
        home = Path(spec.submodule_search_locations[0])
        for file in (file for pattern in patterns for file in home.glob(pattern)):
            found.update(_fields(file))
    return frozenset(found) | _OWN


def _fields(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    yield statement.target.id
