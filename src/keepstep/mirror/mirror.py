"""A mirror: the commits that lie at an address, newest first."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import msgspec

from keepstep.errors import (
    CheckpointCorrupt,
    CheckpointNotFound,
    LayoutTooNew,
    ManifestInvalid,
    MirrorOfAnother,
    RunNotFound,
    SettingsError,
)
from keepstep.layout import NOT_JSON, SMALL_FILE_LIMIT
from keepstep.mirror import layout
from keepstep.mirror.bucket_objects import BucketObjects, is_bucket
from keepstep.mirror.cache import RecordCache
from keepstep.mirror.directory_objects import DirectoryObjects
from keepstep.mirror.hub_objects import SCHEME, HubObjects
from keepstep.mirror.jobs import side_by_side
from keepstep.mirror.layout import CommitName
from keepstep.mirror.objects import ObjectStore
from keepstep.mirror.record import SIZE_LIMIT, Record, decode

logger = logging.getLogger("keepstep")

FORMAT_VERSION = 1
READERS = 16
"""Requests for records that are under way at once."""
TRIES = 3
"""How often is asked for what came damaged, before it counts as damaged there."""


class _Identity(msgspec.Struct):
    format: int
    run_id: str
    created: datetime


def open_mirror(address: str | os.PathLike[str]) -> Mirror:
    """The mirror at an address: `s3://bucket/path`, `gs://…`, `az://…`, `hf://buckets/…`, `file:///path` or a path.

    Nothing is asked of it yet. Raises SettingsError.
    """
    text = os.fspath(address)
    if is_bucket(text):
        return Mirror(BucketObjects(text))
    if text.startswith(SCHEME):
        return Mirror(HubObjects(text))
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    elif found := re.match(r"([a-z][a-z0-9+.-]*)://", text):
        raise SettingsError(
            f"a mirror can't be at {found[1]}://",
            hint="Known are s3://, gs://, az:// (keepstep[s3]), hf://buckets/, and a directory, as a path or file:///path.",
        )
    return Mirror(DirectoryObjects(Path(os.path.abspath(os.path.expanduser(text)))))


class Mirror:
    """Reads what lies there; `Writer` writes. It remembers records that it has read: they never change."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self._known: dict[str, Record] = {}
        self._cache: RecordCache | None = None
        self._damaged: dict[CommitName, None] = {}

    @property
    def damaged(self) -> tuple[CommitName, ...]:
        """Commits whose records were read, and are none: neither they nor their files count."""
        return tuple(self._damaged)

    def remember(self, cache: RecordCache) -> None:
        """Look a record up in `cache` before it is asked for, and keep there what was read."""
        self._cache = cache

    @property
    def url(self) -> str:
        """The address, without secrets."""
        return self.objects.url

    # -- whose it is -----------------------------------------------------------------------------------

    def run_id(self) -> str:
        """The run that is mirrored. Raises RunNotFound where there is no mirror, LayoutTooNew, MirrorUnavailable."""
        try:
            data = self.objects.read(layout.IDENTITY, limit=SMALL_FILE_LIMIT)
        except FileNotFoundError:
            raise RunNotFound(
                f"no mirror at {self.url}",
                hint=f"Make one of a run: keepstep mirror sync RUN {self.url}",
            ) from None
        try:
            found = msgspec.json.decode(data, type=_Identity)
        except NOT_JSON as error:
            raise CheckpointCorrupt(f"{self.url}/{layout.IDENTITY} is damaged: {error}") from error
        if found.format > FORMAT_VERSION:
            raise LayoutTooNew(
                f"{self.url} has format {found.format}; this keepstep reads up to {FORMAT_VERSION}",
                hint="Upgrade it: pip install -U keepstep",
            )
        return found.run_id

    def begin(self, run_id: str) -> None:
        """Make it the mirror of a run, where it is none yet. Raises MirrorOfAnother, MirrorUnavailable."""
        with suppress(RunNotFound):  # asked first: some places replace what is there
            self.require(run_id)
            return
        data = msgspec.json.encode(_Identity(FORMAT_VERSION, run_id, datetime.now(UTC))) + b"\n"
        self.objects.create(layout.IDENTITY, data)
        self.require(run_id)

    def require(self, run_id: str) -> None:
        """Raises MirrorOfAnother where it is the mirror of another run, RunNotFound where it is none."""
        if (there := self.run_id()) != run_id:
            raise MirrorOfAnother(
                f"{self.url} is the mirror of run {there}, not of {run_id}",
                hint="Each run has a mirror of its own: give another path.",
            )

    # -- commits ---------------------------------------------------------------------------------------

    def names(self) -> Iterator[CommitName]:
        """What is committed, newest first; of equal generations the later writer's first. One request a page."""
        found = (layout.commit_name(item.key) for item in self.objects.list(layout.COMMITS))
        for _, same in groupby((name for name in found if name is not None), key=lambda name: name.generation):
            yield from sorted(same, key=lambda name: (-name.epoch, name.token))

    def record(self, name: CommitName) -> Record:
        """One record. Raises FileNotFoundError where it was removed meanwhile, CheckpointCorrupt, LayoutTooNew."""
        if (known := self._known.get(name.key)) is None:
            known = self._known[name.key] = self._cached(name) or self._read(name)
        return known

    def _cached(self, name: CommitName) -> Record | None:
        data = None if self._cache is None else self._cache.take(name.key)
        if data is None:
            return None
        try:
            return decode(name, data, self.url)
        except (CheckpointCorrupt, LayoutTooNew):
            return None  # the cache was damaged

    def _read(self, name: CommitName) -> Record:
        for left in reversed(range(TRIES)):
            data = self.objects.read(name.key, limit=SIZE_LIMIT)
            try:
                found = decode(name, data, self.url)
            except ManifestInvalid:
                if not left:
                    raise
                continue
            if self._cache is not None:
                self._cache.add(name.key, data)
            return found
        raise AssertionError("unreachable")

    def records(self) -> tuple[Record, ...]:
        """Every commit that can be read, newest first, one of each generation; what is damaged is logged."""
        generations = [tuple(same) for _, same in groupby(self.names(), key=lambda name: name.generation)]
        read: dict[int, Record | None] = {}

        def read_one(names: tuple[CommitName, ...]) -> None:
            # Where a generation was written twice, and the record that counts is damaged, the other one does.
            records = (self.readable(name) for name in names)
            read[names[0].generation] = next((record for record in records if record is not None), None)

        side_by_side(read_one, generations, READERS)
        found = tuple(record for names in generations if (record := read[names[0].generation]) is not None)
        if self._cache is not None:
            self._cache.save(found)
        return found

    def newest(self, *, resumable: bool = False) -> Record | None:
        """The newest commit that can be read, or that can be resumed from; None where there is none."""
        for name in self.names():
            record = self.readable(name)
            if record is not None and (record.checkpoint.resumable or not resumable):
                break
        else:
            record = None
        if self._cache is not None:
            self._cache.save()
        return record

    def find(self, reference: str) -> Record:
        """The commit that "latest", a step or `gen:N` names, of equal steps the newest. Raises CheckpointNotFound."""
        records: Sequence[Record] = self.records()
        if reference == "latest":
            found = records[:1]
        elif named := re.fullmatch(r"gen:(\d+)", reference):
            found = [record for record in records if record.checkpoint.generation == int(named[1])]
        elif named := re.fullmatch(r"(?:step:|checkpoint-|weights-)?(\d+)", reference):
            found = [record for record in records if record.checkpoint.step == int(named[1])]
        else:
            found = []
        if found:
            return found[0]
        steps = ", ".join(str(record.checkpoint.step) for record in records[:20]) or "none"
        raise CheckpointNotFound(
            f"{self.url} holds no {reference!r}", hint=f"Known are latest, a step or gen:N; its steps: {steps}."
        )

    def readable(self, name: CommitName) -> Record | None:
        """One record; None where it was removed meanwhile, or is damaged, which is logged."""
        try:
            return self.record(name)
        except FileNotFoundError:
            return None
        except CheckpointCorrupt as error:
            self._damaged[name] = None
            logger.warning("passed over: %s", error)
            return None
