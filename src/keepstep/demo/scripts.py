"""The example programs: what each is for, and its text. They come along with every installation."""

from __future__ import annotations

import ast
from difflib import get_close_matches
from pathlib import Path

from keepstep.errors import SettingsError

_INSTALLED = Path(__file__).parent / "examples"
_CHECKOUT = Path(__file__).parents[3] / "examples"


def directory() -> Path:
    """Where the examples lie: in the package, or, where that is a checkout's, beside it."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def names() -> list[str]:
    """What the examples are called, in alphabetical order."""
    return sorted(path.stem for path in directory().glob("*.py"))


def text_of(name: str) -> str:
    """The program of that name; "sft_lora.py" is "sft_lora". Raises SettingsError, which lists the names."""
    known = names()
    wanted = name.removesuffix(".py")
    if wanted not in known:
        near = get_close_matches(wanted, known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"there is no example {name!r}", hint=f"The examples are {', '.join(known)}.{meant}")
    return (directory() / f"{wanted}.py").read_text(encoding="utf-8")


def sentence_of(name: str) -> str:
    """What an example is for: the first line of its docstring."""
    return (ast.get_docstring(ast.parse(text_of(name))) or "").partition("\n")[0]
