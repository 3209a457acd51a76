"""A mirror seen as a run: all that reads works on it, and nothing is written. What is asked for travels, no more."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from keepstep import layout as home
from keepstep.errors import CheckpointCorrupt, NotAtHome
from keepstep.mirror.mirror import Mirror
from keepstep.mirror.notes import read_notes
from keepstep.mirror.pulling import check, pull
from keepstep.mirror.record import Record
from keepstep.model import Checkpoint, Damage, FileEntry
from keepstep.repository import Foreign, Listing, Need, OnBytes, Problem, Repository, Verification, need_of
from keepstep.retention import default_policy
from keepstep.run import EventLog, Readers, Reference, ResumePoint, Run, RunFile, pins_bytes, policy_said
from keepstep.stores import Entry, LocalStore, MemoryStore

FRESH = 2.0
"""Seconds that a list counts for before it is asked for anew."""


class MirrorRepository(Repository):
    """The checkpoints of a mirror by its records. With a `place` they have paths below it, where `bring` puts files."""

    def __init__(self, store: MemoryStore, mirror: Mirror, run_id: str) -> None:
        super().__init__(store, run_id)
        self.place: Path | None = None
        self._mirror = mirror
        self._records: dict[int, Record] = {}
        self._listing: Listing | None = None
        self._looked = 0.0
        self._here: dict[int, set[str]] = {}
        self._damage: dict[int, Damage] = {}

    def listing(self) -> Listing:
        """The records' checkpoints by generation."""
        if self._listing is None or time.monotonic() - self._looked > FRESH:
            records = self._mirror.records()
            # What somebody holds stays known, though it went from the mirror meanwhile.
            self._records |= {record.name.generation: record for record in records}
            self._listing = Listing(tuple(self._seen(record) for record in reversed(records)), ())
            self._looked = time.monotonic()
        return self._listing

    def _seen(self, record: Record) -> Checkpoint:
        checkpoint = record.checkpoint
        path = None if self.place is None else self.place / checkpoint.name
        return replace(checkpoint, path=path, damage=self._damage.get(checkpoint.generation, Damage.NONE))

    def record(self, checkpoint: Checkpoint) -> Record:
        """The record of a checkpoint that was listed."""
        return self._records[checkpoint.generation]

    def settle(self, place: Path | None) -> None:
        """Give the checkpoints paths below a directory, where what is brought of them lies; None: none any more."""
        self.place, self._listing, self._here = place, None, {}

    def bring(self, checkpoint: Checkpoint, files: Iterable[FileEntry], on_bytes: OnBytes | None) -> None:
        """Have these files under the checkpoint's path. Raises CheckpointCorrupt, MirrorUnavailable, StorageError."""
        if checkpoint.path is None:
            return
        here = self._here.setdefault(checkpoint.generation, set())
        due = tuple(file for file in files if file.path not in here)
        arriving = checkpoint.path.with_name(f".{checkpoint.name}.arriving")
        try:
            pull(self._mirror, _part(self.record(checkpoint), due), arriving, on_bytes=on_bytes)
            for file in due:
                (checkpoint.path / file.path).parent.mkdir(parents=True, exist_ok=True)
                os.rename(arriving / file.path, checkpoint.path / file.path)
        except CheckpointCorrupt:
            self.note(checkpoint, Damage.WEIGHTS)
            raise
        finally:
            shutil.rmtree(arriving, ignore_errors=True)
        here.update(file.path for file in due)

    def note(self, checkpoint: Checkpoint, damage: Damage) -> None:
        """What is known to be damaged there, as long as this object lives."""
        self._damage[checkpoint.generation] = damage
        self._listing = None

    def verify(
        self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None, *, alone: Collection[str] | None = None
    ) -> Verification:
        """Every byte, read back, of all files or of these `alone`; of what was brought here, only that none came
        damaged: each was compared then.
        """
        if checkpoint.path is not None:
            return Verification(checkpoint, ())
        record = self.record(checkpoint)
        if why := self._not_as_known(record):
            return Verification(checkpoint, (Problem(record.key, why, Need.EVERYTHING),))
        home = f"{self._mirror.url}/{record.home}/"
        return Verification(
            checkpoint,
            tuple(
                Problem(file.path, what.removeprefix(f"{home}{file.path} "), need_of(file))
                for file in checkpoint.files
                if alone is None or file.path in alone
                for what in check(self._mirror, _part(record, (file,)), on_bytes=on_bytes)
            ),
        )

    def _not_as_known(self, record: Record) -> str:
        """What is wrong with a record as it lies there, whatever was kept of it here; empty where nothing is."""
        try:
            Mirror(self._mirror.objects).record(record.name)
        except FileNotFoundError:
            return "is gone"
        except CheckpointCorrupt as error:
            return f"is no record any more: {error.message}"
        return ""

    def examine(self, checkpoint: Checkpoint) -> Verification:
        """That its files are there, by names and sizes; no byte travels."""
        record = self.record(checkpoint)
        there = {item.key: item.size for item in self._mirror.objects.list(record.home)}
        problems: list[Problem] = []
        for file in checkpoint.files:
            size = there.get(f"{record.home}/{file.path}")
            if size is None:
                problems.append(Problem(file.path, "is missing in the mirror", need_of(file)))
            elif size != file.size:
                problems.append(Problem(file.path, f"has {size:,} of {file.size:,} bytes in the mirror", need_of(file)))
        return Verification(checkpoint, tuple(problems))

    def lacking(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Nothing: its record is the commit."""
        return ()

    def aside(self) -> tuple[Checkpoint, ...]:
        """Nothing: a mirror sets nothing aside."""
        return ()

    def added(self, checkpoint: Checkpoint) -> list[Entry]:
        """Nothing: what is in no manifest is not sent."""
        return []

    def committed(self, name: str) -> Checkpoint | None:
        """The newest checkpoint of that name."""
        return next((c for c in reversed(self.listing().checkpoints) if c.name == name), None)

    def stands(self, checkpoint: Checkpoint) -> bool:
        """True: what goes while it is brought is told by its missing bytes."""
        return True


class MirrorRun(Run):
    """The run that a mirror holds, as far as it is there: checkpoints, late metrics, pins, tags, and what of its event
    log travels. Its policy is what the newest manifest says.
    """

    remote = True
    proof = "committed in the mirror, its files there by names and sizes; their bytes are compared when they come"

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        run_id, notes = mirror.run_id(), read_notes(mirror)
        store = MemoryStore()
        store.put(home.EVENTS, b"".join(line + b"\n" for line in notes.lines))
        if notes.pins.held:
            store.put(home.PINS, pins_bytes(notes.pins))
        store.before = self._refuse
        self._there = MirrorRepository(store, mirror, run_id)
        checkpoints = self._there.listing().checkpoints
        policy = policy_said(list(checkpoints)) if checkpoints else default_policy(None, None)
        created = checkpoints[0].created if checkpoints else datetime.now(UTC)
        file = RunFile.for_policy(policy, run_id=run_id, created=created)
        super().__init__(Path(mirror.url), file, store=cast("LocalStore", store))
        self.repository = self._there
        self.events, self.readers = EventLog(store, muted=True), Readers(store, muted=True)

    @property
    def address(self) -> str:
        return self.mirror.url

    def home_of(self, checkpoint: Checkpoint) -> str:
        """The directory of keys that the files of a checkpoint lie in."""
        return self._there.record(checkpoint).home

    def place_of(self, checkpoint: Checkpoint) -> str:
        return f"{self.mirror.url}/{self.home_of(checkpoint)}"

    def way_here(self, checkpoint: Checkpoint) -> str:
        return f"keepstep mirror pull {self.address} DIR gen:{checkpoint.generation}"

    def oddities(self) -> tuple[str, ...]:
        return (f"a mirror, of run {self.id}: it is only read",)

    @property
    def foreign(self) -> tuple[Foreign, ...]:
        """Records that are damaged: what they were of counts no more."""
        return tuple(
            Foreign(Path(f"gen:{name.generation}"), "its record in the mirror is damaged")
            for name in self.mirror.damaged
        )

    def resume_point(
        self,
        reference: Reference = "latest",
        on_bytes: OnBytes | None = None,
        *,
        check: Callable[[Checkpoint], Verification] | None = None,
    ) -> ResumePoint:
        """Where a pull and a resume would go on from; files are looked for by names and sizes, and none is read."""
        return super().resume_point(reference, on_bytes, check=check or self._there.examine)

    def look_at(self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None) -> Verification:
        return self._there.examine(checkpoint)

    @contextmanager
    def at_hand(self, place: Callable[[], AbstractContextManager[Path]]) -> Generator[None]:
        with place() as directory:
            self._there.settle(directory)
            try:
                yield
            finally:
                self._there.settle(None)

    def bring(self, checkpoint: Checkpoint, files: Iterable[FileEntry], on_bytes: OnBytes | None = None) -> None:
        self._there.bring(checkpoint, files, on_bytes)

    def note_verified(self, verification: Verification) -> None:
        """What is damaged there is known as long as this object lives."""
        self._there.note(verification.checkpoint, verification.damage)

    def point_links(self, *, without: object = (), beside: Checkpoint | None = None) -> None:
        """It has no links."""

    def must_be_managed(self) -> None:
        """Raises NotAtHome: what is said of a run is said where it lies."""
        raise NotAtHome(
            f"{self.address} is a mirror: it is read, and changed by its run's syncs alone",
            hint=f"Remove checkpoints there: keepstep mirror prune {self.address}\n"
            f"Bring one here, and go on with it: keepstep mirror pull {self.address} DIR\n"
            "Anything else is done to the run; its next sync takes it there.",
        )

    def begin_writing(self, what: str = "") -> None:
        """Raises NotAtHome, as everything that writes."""
        self.must_be_managed()

    def settle(self) -> None:
        """Raises NotAtHome, as everything that writes."""
        self.must_be_managed()

    def _refuse(self, operation: str, path: str) -> None:
        self.must_be_managed()


def _part(record: Record, files: tuple[FileEntry, ...]) -> Record:
    """The record as if the checkpoint had these files alone."""
    return Record(record.name, replace(record.checkpoint, files=files), record.home)
