"""Whose a file of a sharded checkpoint is: each rank makes its own durable, and knows their digests."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from keepstep.model import FileEntry
from keepstep.repository import sealed
from keepstep.snapshot.ranks import LEAD
from keepstep.stores import LocalStore

_OF_A_RANK = re.compile(
    r"(?:^|/)(?:__(\d+)_\d+\.distcp|rng_state_(\d+)\.pth|keepstep_state_(\d+)\.(?:json|pt)|keepstep_imprint_(\d+)\.mpz"
    r"|(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_\d+_\w+\.pt)$"
)
"""Names by which torch's DCP, transformers, DeepSpeed and keepstep itself tell whose a file is."""


def writer_of(path: str) -> int:
    """The rank that wrote a file, by its name; what carries no rank is rank 0's."""
    found = _OF_A_RANK.search(path)
    return next((int(number) for number in found.groups() if number), LEAD) if found else LEAD


def is_named(path: str) -> bool:
    """True for a file whose name tells whose it is."""
    return _OF_A_RANK.search(path) is not None


def whose(paths: Collection[str]) -> str:
    """The one rank that wrote all these files, in words; empty where these are several, or their names don't tell."""
    ranks = {writer_of(path) for path in paths if is_named(path)}
    return f"rank {ranks.pop()}" if len(ranks) == 1 and all(map(is_named, paths)) else ""


def seal_portion(directory: Path, rank: int, durable: Mapping[str, FileEntry] | None = None) -> list[FileEntry]:
    """Make durable what a rank has written below `directory`, and take the digests of what is its own. Raises OSError.

    `durable` are those that are on the disk already, with their digests, by path: they are not read again.

    Pages that are not on the disk yet are on the node that wrote them: only there a sync reaches them. A file whose
    name tells of no rank may be anybody's, and is synced by all.
    """
    known = durable or {}
    store, found = LocalStore(directory.parent), [*known.values()]
    for entry in store.walk(directory.name):
        if entry.kind != "file" or entry.path in known:
            continue
        key, mine = f"{directory.name}/{entry.path}", writer_of(entry.path) == rank
        if mine:
            store.sync_file(key)
            found.append(sealed(store, key, entry.path, entry.size))
        elif not is_named(entry.path):
            with suppress(FileNotFoundError):
                store.sync_file(key)
    return found
