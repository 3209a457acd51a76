"""References as programs hand them over: numbers of numpy, addresses of files, a file inside of a checkpoint."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from keepstep.errors import ReferenceInvalid
from keepstep.model import parse_name
from keepstep.paths import expanded
from keepstep.repository import MANIFEST_NAME

TRAINER_STATE_NAME = "trainer_state.json"
_ADDRESS = r"[A-Za-z][A-Za-z0-9+.-]+://"
_HOW = 'It is a step number, "best", "latest", "step:300", a tag, or the path of a checkpoint.'


def spelled(reference: Any) -> str | int | os.PathLike[str]:
    """What a reference says, as a text, a step number or a path: `np.int64(3)` is 3, `file:///a/b` the path `/a/b`.

    Raises ReferenceInvalid for what can't be one: an empty text, a number with a fraction, another machine's address.
    """
    if isinstance(reference, str):
        return _text(reference)
    if hasattr(reference, "__fspath__"):
        return reference
    if isinstance(reference, bool):
        raise ReferenceInvalid(f"{reference} names no checkpoint", hint=_HOW)
    try:
        return operator.index(reference)
    except TypeError:
        raise ReferenceInvalid(f"{reference!r} ({type(reference).__name__}) names no checkpoint", hint=_HOW) from None


def _text(reference: str) -> str:
    if not reference.strip():
        raise ReferenceInvalid(
            "an empty text names no checkpoint",
            hint="A variable of a script may be unset. A fresh start is None or False, "
            'and "auto" goes on from the newest where there is one.',
        )
    if not re.match(_ADDRESS, reference):
        return reference
    address = urlsplit(reference)
    if address.scheme != "file":
        raise ReferenceInvalid(
            f"{reference} does not lie on this machine", hint="Download it, and give the path of the directory."
        )
    if address.netloc not in ("", "localhost"):
        raise ReferenceInvalid(
            f"{reference} lies on the machine {address.netloc!r}",
            hint="A path of this one has three: file:///data/run.",
        )
    return unquote(address.path) or os.sep


def places(text: str, run: Path) -> Iterator[Path]:
    """Where a path that was written would lie: from here, then from the run's directory."""
    path = expanded(text)
    yield path
    if not path.is_absolute():
        yield run / path


def checkpoint_of(path: Path) -> Path:
    """The directory of the checkpoint that a path leads into, where it leads to a file in one; else the path."""
    if path.is_file():
        for parent in list(Path(os.path.abspath(path)).parents)[:2]:
            if is_checkpoint(parent):
                return parent
    return path


def is_checkpoint(path: Path) -> bool:
    """True for a directory that looks like a checkpoint, ours or a stock one, whatever it is called."""
    named = parse_name(path.name) is not None and path.is_dir()
    return named or any((path / name).is_file() for name in (MANIFEST_NAME, TRAINER_STATE_NAME))
