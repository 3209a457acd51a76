"""`training_args.bin` as plain values, read without running it; what the Trainer saves beside every checkpoint.

It is a pickle, and a pickle is a program: unpickling a stranger's runs what they wrote. Here it is followed as text.
Format: `torch.save` of the Trainer's arguments, a zip with an entry `data.pkl` that is stored as it is.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Any

from keepstep.formats.inert_pickle import LARGEST, Inert, UnreadablePickle, interpret

ARGUMENTS_NAME = "training_args.bin"
CLASS = "__class__"
"""The key under which the dotted name of the arguments' class, and of each thing that is no plain value, stands."""
HIDDEN = "***"
"""In the place of what is a secret, by its name or its form."""
DEEPER = "..."
"""In the place of what is nested deeper than `DEEPEST`."""
DEEPEST = 30
MOST_VALUES = 100_000
_CHARACTERS = 100
"""Characters of a text that count as one value."""
_MOST_BITS = 256
_LARGEST_FILE = 2 * LARGEST
_ZIP = b"PK\x03\x04"
_OURS = ("transformers.", "accelerate.", "trl.", "pathlib.")
"""Modules whose enumerations and configs are told by their values; of everything else the name alone."""
_SECRET = re.compile(r"(?i)(^|_)(token|secret|password|passwd|credentials?|key)$")
_SPECIAL_TOKEN = re.compile(r"^(bos|eos|pad|unk|sep|cls|mask|image|video|audio)_token$")
_SECRET_FORM = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,})|(?<=://)[^/@\s]+@")


class UnreadableArguments(ValueError):
    """The file is no `training_args.bin`, damaged, or beyond the limits of what one holds."""


def read_training_arguments(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments by name, as JSON could hold them, and the dotted name of their class under `CLASS`.

    Enumerations are their values, configs of transformers, accelerate and TRL are dicts; of other objects there is the
    name of the class. Names with a leading underscore are left out. Secrets are `HIDDEN`. Nothing in the file is run,
    imported or built, and torch is not needed. Raises UnreadableArguments, and OSError.
    """
    try:
        root = interpret(_pickle_in(Path(path)))
    except UnreadablePickle as error:
        raise UnreadableArguments(f"{path}: {error}") from error
    if isinstance(root, Inert) and isinstance(root.state, dict):
        kind, state = root.name, root.state  # pyright: ignore[reportUnknownMemberType]
    elif isinstance(root, dict):
        kind, state = "dict", root  # pyright: ignore[reportUnknownVariableType]
    else:
        raise UnreadableArguments(f"{path} holds no training arguments")
    try:
        values: dict[str, Any] = _Plain().fields(state, 1)  # pyright: ignore[reportUnknownArgumentType]
    except UnreadablePickle as error:
        raise UnreadableArguments(f"{path}: {error}") from error
    return {CLASS: _text(kind), **{name: value for name, value in values.items() if not name.startswith("_")}}


def is_secret(name: str) -> bool:
    """True for a setting whose value nobody should see: `hub_token`, `wandb_api_key`; not for a tokenizer's."""
    return bool(_SECRET.search(name)) and not _SPECIAL_TOKEN.match(name)


def without_secrets(text: str) -> str:
    """A text with `HIDDEN` for what has the form of a token, and for a name and password in an address."""
    return _SECRET_FORM.sub(lambda found: HIDDEN + ("@" if found[0].endswith("@") else ""), text)


def _pickle_in(path: Path) -> bytes:
    """The bytes of the pickle: an entry of a zip that is stored as it is, or the file itself."""
    # A named pipe would wait for a writer for ever.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnreadableArguments(f"{path} is no regular file")
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise UnreadableArguments(f"{path} is larger than training arguments are")
    if not data.startswith(_ZIP):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            stored = [e for e in found if e.compress_type == zipfile.ZIP_STORED and e.file_size <= LARGEST]
            if len(found) != 1 or not stored:
                raise UnreadableArguments(f"{path} holds no data.pkl that is stored as it is")
            return archive.read(stored[0])
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise UnreadableArguments(f"{path} is a damaged zip: {error}") from error


class _Plain:
    """Makes plain values of inert ones, as many as there may be: what is shared is made once for every place."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def fields(self, values: dict[str, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            plain = self.value(value, depth)
            found[_text(name)] = HIDDEN if isinstance(plain, str) and plain and is_secret(name) else plain
        return found

    def value(self, value: Any, depth: int) -> Any:
        self._spend(1 + (len(value) // _CHARACTERS if isinstance(value, (str, bytes, bytearray)) else 0))
        if depth > DEEPEST:
            return DEEPER
        match value:
            case None | bool() | float():
                return value
            case int():
                return value if value.bit_length() <= _MOST_BITS else {CLASS: "int"}
            case str():
                return without_secrets(_text(value))
            case dict():
                return self.fields(value, depth + 1)  # pyright: ignore[reportUnknownArgumentType]
            case list() | tuple():
                return [self.value(item, depth + 1) for item in value]  # pyright: ignore[reportUnknownVariableType]
            case Inert():
                return self._object(value, depth)
            case _:
                return {CLASS: type(value).__name__}

    def _object(self, made: Inert, depth: int) -> Any:
        arguments: tuple[Any, ...] = made.arguments if isinstance(made.arguments, tuple) else ()  # pyright: ignore[reportUnknownMemberType]
        if made.name.startswith(_OURS) or made.name == "torch.device":
            if isinstance(made.state, dict):
                return {CLASS: _text(made.name), **self.fields(made.state, depth + 1)}  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            if made.name.startswith("pathlib.") and arguments and all(isinstance(part, str) for part in arguments):
                return without_secrets(_text(os.path.join(*arguments)))
            if len(arguments) == 1 and isinstance(arguments[0], (str, int)):
                return self.value(arguments[0], depth + 1)
        if made.arguments is None and made.name.startswith("torch."):
            return _text(made.name)
        member = _member(made.name, arguments)
        if member is not None:
            return _text(member.lower())
        return {CLASS: _text(made.name)}

    def _spend(self, number: int) -> None:
        self._left -= number
        if self._left < 0:
            raise UnreadablePickle(f"the pickle holds more than {MOST_VALUES:,} values")


def _member(name: str, arguments: tuple[Any, ...]) -> str | None:
    """The name of an enumeration's member, by which some versions of Python pickle it; None for anything else."""
    match arguments:
        case (Inert(name=owner), str() as member) if owner.startswith(_OURS):
            return member if name in ("builtins.getattr", "__builtin__.getattr") else None
        case _:
            return None


def _text(text: str) -> str:
    """Without halves of surrogate pairs, which no encoding takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
