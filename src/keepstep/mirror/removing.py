"""What goes from a mirror, in an order in which nothing that is left counts for more than it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from keepstep.mirror import layout
from keepstep.mirror.layout import CommitName
from keepstep.mirror.mirror import Mirror
from keepstep.mirror.record import Record, encode
from keepstep.mirror.writer import Writer
from keepstep.repository import MANIFEST_NAME, encode_manifest

ORPHAN_AGE = 24 * 3600.0
"""Seconds after which what has no record is taken for what a killed writer left."""


class Orphan(NamedTuple):
    """Objects that no commit names, below one home: where, how many, and their bytes."""

    home: str
    keys: tuple[str, ...]
    size_bytes: int
    youngest: float


def drop(writer: Writer, records: Sequence[Record], on_drop: Callable[[Record], object] | None = None) -> None:
    """Remove commits, and tell of each: its records first, so that no reader takes it for whole, its bytes last.

    A generation that was written twice, or half thinned by a killed writer, goes with all of its records.
    """
    writer.check()
    objects, all_names = writer.mirror.objects, _names(writer.mirror) if records else {}
    for record in records:
        names = all_names.get(record.name.generation, ())
        homes = {record.home, *(other.home for other in map(writer.mirror.readable, names) if other is not None)}
        objects.delete([record.key, *(name.key for name in names if name.key != record.key)])
        for home in sorted(homes):
            objects.delete([f"{home}/{MANIFEST_NAME}"])
            objects.delete([item.key for item in objects.list(home)])
        if on_drop is not None:
            on_drop(record)


def thin(writer: Writer, record: Record) -> Record:
    """Leave a commit's weights: a new record over the same bytes, then the old record and the rest go."""
    writer.check()
    thinned = record.checkpoint.thinned()
    name = CommitName(record.name.generation, writer.epoch, f"{writer.token}{record.name.token}"[:32])
    writer.mirror.objects.create(name.key, encode(thinned, record.home))
    left = Record(name, thinned, record.home)
    _settle(writer, left, [record.name])
    return left


def settle(writer: Writer) -> None:
    """Finish what killed writers began: of a generation that has several records, the one that counts stays alone."""
    there = Mirror(writer.mirror.objects)  # as it lies there: what was kept of it may be better than that
    for names in _names(there).values():
        if len(names) > 1 and (record := there.readable(names[0])) is not None:
            _settle(writer, record, names[1:])


def orphans(writer: Writer, records: Sequence[Record]) -> tuple[Orphan, ...]:
    """Objects that no commit names and whose youngest is a day old, by the clock of the place where they lie.

    `records` is what could be read. What a record names that could not be is none.
    """
    objects = writer.mirror.objects
    named = {record.home: {f"{record.home}/{path}" for path in _paths(record)} for record in records}
    read = {record.name.generation for record in records}
    unread = {generation for generation in _names(writer.mirror) if generation not in read}
    found: dict[str, list[tuple[str, int, float]]] = {}
    for item in objects.list(layout.DATA):
        home = layout.home_in(item.key)
        if home is not None and layout.generation_of(home) not in unread and item.key not in named.get(home, ()):
            found.setdefault(home, []).append((item.key, item.size, item.modified))
    if not found:
        return ()
    now = _clock(writer)
    made = (
        Orphan(home, tuple(key for key, _, _ in items), sum(size for _, size, _ in items), max(t for _, _, t in items))
        for home, items in sorted(found.items())
    )
    return tuple(orphan for orphan in made if orphan.youngest < now - ORPHAN_AGE)


def _names(mirror: Mirror) -> dict[int, tuple[CommitName, ...]]:
    """Every record's name by generation; the one that counts first."""
    return {generation: tuple(same) for generation, same in groupby(mirror.names(), key=lambda name: name.generation)}


def _paths(record: Record) -> list[str]:
    return [MANIFEST_NAME, *(file.path for file in record.checkpoint.files)]


def _settle(writer: Writer, record: Record, others: Sequence[CommitName]) -> None:
    """Leave this record of its generation, the manifest that it holds, and the files that it names."""
    objects, manifest = writer.mirror.objects, encode_manifest(record.checkpoint)
    objects.put(f"{record.home}/{MANIFEST_NAME}", [manifest], len(manifest))
    objects.delete([name.key for name in others])
    kept = {f"{record.home}/{path}" for path in _paths(record)}
    objects.delete([item.key for item in objects.list(record.home) if item.key not in kept])


def _clock(writer: Writer) -> float:
    """The time there, as it stands on an object that is put now."""
    objects, key = writer.mirror.objects, f"probes/{writer.token}.json"
    objects.put(key, [b"{}"], 2)
    try:
        return next(item.modified for item in objects.list("probes") if item.key == key)
    finally:
        objects.delete([key])
