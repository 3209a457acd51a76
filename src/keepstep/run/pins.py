"""Pins and tags of a run: what is never removed, and names that people gave to checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.model import parse_name
from keepstep.run.events import Event
from keepstep.stores import Store, is_leftover_of

if TYPE_CHECKING:
    from filelock import FileLock

TAG_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
RESERVED = frozenset({"best", "latest", "auto", "true", "false", "none", "step"})


class TagInvalid(KeepstepError, ValueError):
    """A name that can't be a tag."""

    code = "tag-invalid"
    exit_code = 2


class Pins(msgspec.Struct, frozen=True, dict=True):
    """Pinned generations and tags (name to generation); a tagged checkpoint counts as pinned."""

    pinned: frozenset[int] = frozenset()
    tags: dict[str, int] = msgspec.field(default_factory=dict[str, int])

    @property
    def held(self) -> frozenset[int]:
        """Generations that no plan removes."""
        return self.pinned | frozenset(self.tags.values())

    def names(self, generation: int) -> tuple[str, ...]:
        """Tags of one checkpoint, sorted."""
        return self._names.get(generation, ())

    @cached_property
    def _names(self) -> dict[int, tuple[str, ...]]:
        found: dict[int, tuple[str, ...]] = {}
        for name, generation in sorted(self.tags.items()):
            found[generation] = (*found.get(generation, ()), name)
        return found


def pins_of(events: Iterable[Event]) -> Pins:
    """Pins and tags as the events of a run say them, where the file of them is lost."""
    pinned: set[int] = set()
    tags: dict[str, int] = {}
    for event in events:
        match event:
            case {"event": "pinned", "generation": int(generation)}:
                pinned.add(generation)
            case {"event": "unpinned", "generation": int(generation)}:
                pinned.discard(generation)
                tags = {name: g for name, g in tags.items() if g != generation}
            case {"event": "tagged", "generation": int(generation), "name": str(name)}:
                tags[name] = generation
            case {"event": "committed", "generation": int(generation), "replaces": [*replaced]} if replaced:
                pinned = {generation if g in replaced else g for g in pinned}
                tags = {name: generation if g in replaced else g for name, g in tags.items()}
            case _:
                continue
    return Pins(frozenset(pinned), tags)


def pins_from(data: bytes) -> Pins:
    """The pins and tags in the bytes of their file. Raises one of `layout.NOT_JSON`."""
    file = msgspec.json.decode(data, type=_File)
    return Pins(frozenset(file.pinned), dict(file.tags))


def pins_bytes(pins: Pins) -> bytes:
    """What the file of these pins and tags holds."""
    file = _File(sorted(pins.pinned), dict(sorted(pins.tags.items())))
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


class _File(msgspec.Struct):
    pinned: list[int] = []
    tags: dict[str, int] = {}


class PinBoard:
    """Reads and changes `.keepstep/pins.json`; safe beside a training that holds the run's lock."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self) -> Pins:
        """Pins and tags in force. Raises KeepstepError when the file is damaged: guessing would unpin."""
        try:
            data = self._store.read(layout.PINS, limit=layout.SMALL_FILE_LIMIT)
        except FileNotFoundError:
            return Pins()
        try:
            return pins_from(data)
        except layout.NOT_JSON as error:
            where = self._store.local_path(layout.PINS)
            raise KeepstepError(
                f"{where} is damaged: {error}",
                hint=f"Rebuild it from the events: keepstep repair {self._store.local_path('')}; or delete it to drop "
                "all pins and tags.",
            ) from error

    def pin(self, generation: int) -> None:
        """Keep a checkpoint whatever the policy says."""
        self._change(lambda pins: replace(pins, pinned=pins.pinned | {generation}))

    def unpin(self, generation: int) -> None:
        """Let the policy decide again; tags of the checkpoint go too."""
        self._change(
            lambda pins: Pins(pins.pinned - {generation}, {name: g for name, g in pins.tags.items() if g != generation})
        )

    def tag(self, generation: int, name: str) -> None:
        """Name a checkpoint; the name moves when another one had it. Raises TagInvalid."""
        if not TAG_PATTERN.fullmatch(name) or name.lower() in RESERVED or parse_name(name):
            raise TagInvalid(
                f"{name!r} can't be a tag",
                hint="A tag starts with a letter, has letters, digits, '.', '_' and '-', and is no reference word.",
            )
        self._change(lambda pins: replace(pins, tags={**pins.tags, name: generation}))

    def hand_over(self, old: int, new: int) -> None:
        """Let a checkpoint that was saved again take over the pin and the tags of the one it replaced."""
        if old in self.read().held:
            self._change(
                lambda pins: Pins(
                    frozenset(new if g == old else g for g in pins.pinned),
                    {name: new if g == old else g for name, g in pins.tags.items()},
                )
            )

    def recover(self) -> None:
        """Clear what a killed change left behind, unless a change is under way."""
        left = [e.path for e in self._store.list(layout.META) if is_leftover_of(e.path, "pins.json")]
        if left:
            with suppress(OSError), self._alone(0):
                for name in left:
                    self._store.delete(f"{layout.META}/{name}")

    def _alone(self, timeout: float) -> FileLock:
        from filelock import FileLock  # it costs every command 30 ms, and few change pins

        return FileLock(self._store.local_path(layout.PINS_LOCK), timeout=timeout)

    def _change(self, change: Callable[[Pins], Pins]) -> None:
        self._store.make_directory(layout.META)
        with self._alone(30):
            self._store.replace(layout.PINS, pins_bytes(change(self.read())))
