"""What goes from a mirror, in an order in which nothing that is left counts for more than it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keepstep.mirror import layout
from keepstep.mirror.layout import CommitName
from keepstep.mirror.record import Record, encode
from keepstep.mirror.writer import Writer
from keepstep.repository import MANIFEST_NAME, encode_manifest

ORPHAN_AGE = 24 * 3600.0
"""Seconds after which what has no record is taken for what a killed writer left."""


class Orphan(NamedTuple):
    """Objects of a checkpoint that was never committed, or whose record is gone: where, how many, and their bytes."""

    home: str
    keys: tuple[str, ...]
    size_bytes: int
    youngest: float


def drop(writer: Writer, record: Record) -> None:
    """Remove a commit: its record first, so that no reader takes it for whole, its bytes last."""
    writer.check()
    objects = writer.mirror.objects
    others = {other.home for other in writer.mirror.records() if other.key != record.key}
    objects.delete([record.key])
    if record.home not in others:
        objects.delete([f"{record.home}/{MANIFEST_NAME}"])
        objects.delete([item.key for item in objects.list(record.home)])


def thin(writer: Writer, record: Record) -> Record:
    """Leave a commit's weights: a new record over the same bytes, then the old record and the rest go."""
    writer.check()
    objects = writer.mirror.objects
    thinned = record.checkpoint.thinned()
    name = CommitName(record.name.generation, writer.epoch, f"{writer.token}{record.name.token}"[:32])
    objects.create(name.key, encode(thinned, record.home))
    objects.delete([record.key])
    manifest = encode_manifest(thinned)
    objects.put(f"{record.home}/{MANIFEST_NAME}", [manifest], len(manifest))
    kept = {file.path for file in thinned.files}
    objects.delete([f"{record.home}/{file.path}" for file in record.checkpoint.files if file.path not in kept])
    return Record(name, thinned, record.home)


def orphans(writer: Writer, records: Sequence[Record]) -> tuple[Orphan, ...]:
    """Objects of no commit whose youngest is a day old, by the clock of the place where they lie."""
    objects = writer.mirror.objects
    committed = {record.home for record in records}
    found: dict[str, list[tuple[str, int, float]]] = {}
    for item in objects.list(layout.DATA):
        home = layout.home_in(item.key)
        if home is not None and home not in committed:
            found.setdefault(home, []).append((item.key, item.size, item.modified))
    if not found:
        return ()
    now = _clock(writer)
    made = (
        Orphan(home, tuple(key for key, _, _ in items), sum(size for _, size, _ in items), max(t for _, _, t in items))
        for home, items in sorted(found.items())
    )
    return tuple(orphan for orphan in made if orphan.youngest < now - ORPHAN_AGE)


def _clock(writer: Writer) -> float:
    """The time there, as it stands on an object that is put now."""
    objects, key = writer.mirror.objects, f"probes/{writer.token}.json"
    objects.put(key, [b"{}"], 2)
    try:
        return next(item.modified for item in objects.list("probes") if item.key == key)
    finally:
        objects.delete([key])
