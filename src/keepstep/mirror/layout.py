"""The keys of a mirror: what lies where below its address.

    mirror.json                                      whose it is; created once
    writers/<epoch>-….json                           one claim for each process that has written
    data/<generation>-<token>/…                      a checkpoint's files as they lie on the disk, keepstep.json last
    events/<number>.jsonl                            late metrics and how the run came about, in parts; pins.json
    commits/<inverted generation>-<epoch>-<token>.json   the commit: what has no record here is nothing

Generations are inverted so that the newest record stands first in every list.
"""

from __future__ import annotations

import re
from typing import NamedTuple

IDENTITY = "mirror.json"
WRITERS = "writers"
DATA = "data"
COMMITS = "commits"
EVENTS = "events"
PINS = "pins.json"
_HIGHEST = 99_999_999
_COMMIT = rf"{COMMITS}/(\d{{8}})-(\d{{8}})-([0-9a-f]{{8,32}})\.json"
_DATA = rf"{DATA}/(\d{{8}})-([0-9a-f]{{8,32}})"
_EVENTS = rf"{EVENTS}/\d{{6}}\.jsonl"
_WRITER = rf"{WRITERS}/(\d{{8}})(?:-[0-9a-f]{{8,32}})?\.json"


class CommitName(NamedTuple):
    """What the key of a record says: the generation, the epoch of its writer, and a token that nobody else has."""

    generation: int
    epoch: int
    token: str

    @property
    def key(self) -> str:
        """The key of the record."""
        return f"{COMMITS}/{_HIGHEST - self.generation:08d}-{self.epoch:08d}-{self.token}.json"


def commit_name(key: str) -> CommitName | None:
    """What a key below `commits/` says; None where it is none of ours."""
    found = re.fullmatch(_COMMIT, key)
    return None if found is None else CommitName(_HIGHEST - int(found[1]), int(found[2]), found[3])


def data_home(generation: int, token: str) -> str:
    """The directory of keys of a checkpoint's files."""
    return f"{DATA}/{generation:08d}-{token}"


def home_in(key: str) -> str | None:
    """The directory of keys that an object of some checkpoint lies in; None for what is none."""
    found = re.match(_DATA, key)
    return found[0] if found is not None and key[found.end() : found.end() + 1] in ("", "/") else None


def generation_of(home: str) -> int:
    """The generation whose files lie in a directory of keys that `home_in` has found."""
    return int(home.removeprefix(f"{DATA}/").partition("-")[0])


def writer_key(epoch: int, token: str = "") -> str:
    """The key of a claim; with a token where the place does not keep to create-only."""
    return f"{WRITERS}/{epoch:08d}{f'-{token}' if token else ''}.json"


def events_key(number: int) -> str:
    """The key of a part of the events, from 0 on."""
    return f"{EVENTS}/{number:06d}.jsonl"


def is_events(key: str) -> bool:
    """True for a part of the events."""
    return re.fullmatch(_EVENTS, key) is not None


def epoch_in(key: str) -> int | None:
    """The epoch that a claim claims; None where the key is none of ours."""
    found = re.fullmatch(_WRITER, key)
    return None if found is None else int(found[1])
