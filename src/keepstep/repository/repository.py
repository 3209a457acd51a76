"""Checkpoints in one store: stage, commit, list, verify, set aside, remove."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from keepstep import layout
from keepstep.errors import CheckpointCorrupt, CheckpointNotFound, StorageError
from keepstep.model import FULL_PREFIX, Checkpoint, FileEntry, State, parse_name
from keepstep.repository import manifest, moving, recovery
from keepstep.repository.catalog import Catalog, Listing, twins_in
from keepstep.repository.linking import link_weights
from keepstep.repository.loadable import Loaders, Need, lack_of, parents_of
from keepstep.repository.manifest import MANIFEST_NAME
from keepstep.repository.sealing import Changes, Look, adopt, find_changes, look, write_seal
from keepstep.repository.verification import OnBytes, Problem, Verification, added_to, check_file, sealed, verify_files
from keepstep.stores import Entry, Store

Finish = Callable[[Path], Mapping[str, FileEntry]]
"""Writes what is missing in a directory; returns what it made durable, by path relative to it."""

Dispose = Callable[[str], None]
"""Deletes a directory of the store, by its key, at once or later."""


class Staging(msgspec.Struct, frozen=True):
    """A private directory in which one checkpoint is being written."""

    key: str
    path: Path
    """Where the writer puts the checkpoint's own directory."""


class Repository:
    """The checkpoints of one run in one store. Writers must hold the run's lock."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self._catalog = Catalog(store, run_id)

    # -- writing ---------------------------------------------------------------------------------------

    def stage(self) -> Staging:
        """A new, empty directory to write a checkpoint into. Raises StorageError."""
        key = f"{layout.STAGING}/{uuid.uuid4().hex}"
        try:
            # What makes the checkpoint durable is its own sync and that of the run's directory, after the rename.
            self.store.make_directory(key, durable=False)
        except OSError as error:
            raise StorageError(
                f"no checkpoint can be written in {self.store.local_path('')}: {error.strerror or error}",
                hint="Free space or repair the disk; what was committed before is untouched.",
                errno=error.errno,
            ) from error
        return Staging(key, self.store.local_path(key))

    def discard(self, staging: Staging) -> None:
        """Throw a staging directory away, as far as the disk allows; `recover` clears the rest.

        It may hold a checkpoint that was swapped out: what took its place must be durable first.
        """
        with suppress(OSError):
            self.store.sync_directory("")
            self.store.delete(staging.key)

    def commit(self, staging: Staging, draft: Checkpoint, written: Mapping[str, FileEntry] | None = None) -> Checkpoint:
        """Make `<staging>/<draft.name>` the run's checkpoint, durably; returns it with its files and path.

        `written` are files, by path relative to the checkpoint, that are durable already and whose digests are known.
        The manifest is written last; the rename makes the checkpoint visible. A checkpoint of the same name
        is swapped out and removed only after the new one is durable; a foreign directory of that name is set
        aside. Raises StorageError, with the staging directory thrown away and nothing else changed.
        """
        try:
            return self._commit(staging, draft, written or {})
        except OSError as error:
            self.discard(staging)
            where = error.filename or staging.path
            raise StorageError(
                f"checkpoint step {draft.step} could not be committed: {error.strerror or error} ({where})",
                hint="Nothing that was committed before is touched.",
                errno=error.errno,
            ) from error

    def _commit(self, staging: Staging, draft: Checkpoint, written: Mapping[str, FileEntry]) -> Checkpoint:
        staged = f"{staging.key}/{draft.name}"
        self._drop_empty_directories(staged)
        entries = self.store.walk(staged)
        checkpoint = replace(draft, files=tuple(self._seal(staged, entries, written)))
        self.store.write(f"{staged}/{MANIFEST_NAME}", manifest.readable(checkpoint))
        directories = [entry.path for entry in entries if entry.kind == "directory"]
        for directory in sorted(directories, key=len, reverse=True):
            self.store.sync_directory(f"{staged}/{directory}")
        self.store.sync_directory(staged)
        self._publish(staged, checkpoint.name)
        with suppress(OSError):
            self.store.delete(staging.key)
        return replace(checkpoint, path=self.store.local_path(checkpoint.name))

    def _drop_empty_directories(self, staged: str) -> None:
        """A manifest names files alone: an empty directory would be an extra to it."""
        entries = self.store.walk(staged)
        parents = {parent for entry in entries if entry.kind != "directory" for parent in parents_of(entry.path)}
        for entry in entries:
            if entry.kind == "directory" and entry.path not in parents:
                self.store.delete(f"{staged}/{entry.path}")

    def _seal(self, staged: str, entries: list[Entry], written: Mapping[str, FileEntry]) -> Iterator[FileEntry]:
        loaders = Loaders(FileEntry(entry.path, entry.size, "") for entry in entries if entry.kind == "file")
        for entry in entries:
            if entry.kind in ("link", "other") and loaders.why(entry.path):
                raise StorageError(f"{entry.path} is a {entry.kind}, not a regular file")
            known = written.get(entry.path)
            if known is not None and entry.kind == "file" and known.size == entry.size:
                yield known
            elif entry.kind == "file":
                path = f"{staged}/{entry.path}"
                self.store.sync_file(path)
                yield sealed(self.store, path, entry.path, entry.size)

    def _publish(self, staged: str, name: str) -> None:
        """Put the staged directory in its place, durably; a failure on the way puts everything back."""
        with ExitStack() as undo:
            if not self._swap(staged, name, undo):
                self.store.rename(staged, name)
                undo.callback(self.store.rename, name, staged)
            self.store.sync_directory("")
            undo.pop_all()
        with suppress(OSError):
            for entry in self._entries(layout.REPLACED):
                self.store.delete(f"{layout.REPLACED}/{entry.path}")

    def _swap(self, staged: str, name: str, undo: ExitStack) -> bool:
        """True when `name` was taken by ours and is now the staged one; a foreign one is only moved away."""
        if not self.store.exists(name):
            return False
        if not self._is_ours(name):
            undo.callback(moving.give_back, self.store, moving.make_way(self.store, name), name)
            return False
        if self.store.exchange(staged, name):
            undo.callback(self.store.exchange, staged, name)
            return True
        undo.callback(self.store.rename, self.move(name, layout.REPLACED), name)
        return False

    def thin(self, checkpoint: Checkpoint) -> Checkpoint:
        """Commit the weights of a checkpoint as `weights-<step>`, of the same generation; returns that one.

        Its files are further names of the same bytes; where there are no hard links they are copied, and checked. What
        others put beside them and no loader reads goes along, and is sealed there. The
        full one stays, and counts for as long as it is there: it is to be removed next. Raises StorageError.
        """
        staging = self.stage()
        thinned, key = checkpoint.thinned(), self.key(checkpoint)
        try:
            known = link_weights(self.store, key, f"{staging.key}/{thinned.name}", checkpoint)
        except BaseException as error:
            self.discard(staging)
            if isinstance(error, OSError) and not isinstance(error, StorageError):
                raise StorageError(
                    f"checkpoint step {checkpoint.step} could not be thinned: {error.strerror or error}",
                    hint="It stays whole.",
                    errno=error.errno,
                ) from error
            raise
        return self.commit(staging, thinned, known)

    def remove(self, checkpoint: Checkpoint, dispose: Dispose | None = None) -> None:
        """Take a checkpoint away: out of sight in one rename, then its manifest, then the rest.

        The rest is left to `dispose`, where it is given.
        """
        # Into the trash itself: a full disk has no room for a directory around it.
        trash = self._move(self.key(checkpoint), layout.TRASH, uuid.uuid4().hex)
        with suppress(OSError):  # it is gone from the run; `recover` clears what is left of it
            self.store.delete(f"{trash}/{MANIFEST_NAME}")
            (dispose or self.store.delete)(trash)

    def clear(self, key: str, dispose: Dispose | None = None) -> None:
        """Take away a directory of keepstep's own without checkpoints: out of sight in one rename, then the rest."""
        trash = self._move(key, layout.TRASH, uuid.uuid4().hex)
        with suppress(OSError):
            (dispose or self.store.delete)(trash)

    def quarantine(self, checkpoint: Checkpoint) -> Path:
        """Move a checkpoint out of the run, to be kept until a person decides; returns where it lies."""
        home = f"{layout.QUARANTINE}/{uuid.uuid4().hex[:8]}"
        return self.store.local_path(self.move(self.key(checkpoint), home))

    def set_aside(self, checkpoint: Checkpoint, timeline: int) -> Path:
        """Move a checkpoint to an abandoned timeline; returns where it lies."""
        key, name = self.key(checkpoint), checkpoint.name
        moved = self.move(key, moving.free_home(self.store, timeline, name), name)
        moving.drop_emptied(self.store, key)
        return self.store.local_path(moved)

    def bring_back(self, checkpoint: Checkpoint) -> None:
        """Move a checkpoint that lies aside to its place in the run. What has its name there and is none of the run's
        is moved away; raises FileExistsError where one of the run's has it.
        """
        key, name = self.key(checkpoint), checkpoint.name
        if self.store.exists(name) and not self._is_ours(name):
            moving.make_way(self.store, name)
        self.move(key, "", name)
        moving.drop_emptied(self.store, key)

    def set_aside_everything(self, home: str) -> list[str]:
        """Move all directories that are called like checkpoints to `home`; returns their names."""
        names = [e.path for e in self.store.list("") if e.kind == "directory" and parse_name(e.path)]
        for name in names:
            self.move(name, home)
        return names

    def recover(self) -> list[str]:
        """Clear what a killed process left behind; returns what was done. Safe to repeat.

        Nothing is removed before everything that can be seen is durable. What can't be removed stays: it is
        no reason to refuse a resume.
        """
        self._make_durable()
        with suppress(OSError):
            self.store.make_directory(layout.TRASH)  # while there is room for it
        done = [f"put back {entry.path}" for entry in self._entries(layout.REPLACED) if self._put_back(entry.path)]
        done += recovery.clear_unfinished(self.store)
        for twin in twins_in(self._catalog.room("", State.COMMITTED).checkpoints):
            with suppress(OSError):
                self.remove(twin)
                done.append(f"dropped {twin.name}: {FULL_PREFIX}{twin.step} was not thinned to the end")
        recovery.clear_leftovers(self.store)
        return done

    def sweep(self) -> list[str]:
        """Take saves and removals that a killed process left unfinished out of the way, by renames alone; returns the
        keys of what is to be deleted, all in the trash.
        """
        trashed = [f"{layout.TRASH}/{entry.path}" for entry in self._entries(layout.TRASH)]
        staged = [f"{layout.STAGING}/{entry.path}" for entry in self._entries(layout.STAGING)]
        if trashed or staged:  # it may be an older save of a step: what took its place must be durable first
            self._make_durable()
        for key in trashed:
            self.store.delete(f"{key}/{MANIFEST_NAME}")
        return [*trashed, *(self._move(key, layout.TRASH, uuid.uuid4().hex) for key in staged)]

    def _make_durable(self) -> None:
        recovery.make_durable(self.store)

    def _put_back(self, name: str) -> bool:
        """Where a kill came between the two renames of a replacement: the old one takes its place again."""
        replaced = f"{layout.REPLACED}/{name}"
        if self._is_ours(name):
            self.store.delete(replaced)
            return False
        if self.store.exists(name):
            moving.make_way(self.store, name)
        self.store.rename(replaced, name)
        self.store.sync_directory("")
        return True

    # -- reading ---------------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Committed checkpoints of this run by generation, and foreign directories by name.

        Of one that is being thinned the full one counts, for as long as it is there.
        """
        found = self._catalog.room("", State.COMMITTED)
        twins = twins_in(found.checkpoints)
        return Listing(tuple(c for c in found.checkpoints if c not in twins), found.foreign) if twins else found

    def aside(self) -> tuple[Checkpoint, ...]:
        """Checkpoints of abandoned timelines and quarantined ones, by generation."""
        rooms = [(layout.QUARANTINE, State.QUARANTINED), (layout.TIMELINES, State.SET_ASIDE)]
        found = [c for room, state in rooms for c in self._read_tree(room, state, depth=2)]
        return tuple(sorted(found, key=lambda checkpoint: checkpoint.generation))

    def committed(self, name: str) -> Checkpoint | None:
        """The committed checkpoint of that directory name, None when there is none; looks at nothing else."""
        return self._catalog.one(name)

    @property
    def highest_generation(self) -> int:
        """The highest generation of any checkpoint that this object has listed or read aside so far."""
        return self._catalog.highest

    def current_timeline(self) -> int:
        """1, plus the number of the last abandoned timeline; no less than what was read of the manifests."""
        numbers = [int(entry.path) for entry in self.store.list(layout.TIMELINES) if entry.path.isdigit()]
        return max(max(numbers, default=0) + 1, self._catalog.timeline)

    def read_manifest(self, directory: str, state: State = State.COMMITTED) -> Checkpoint:
        """The checkpoint in a directory.

        Raises OSError without a manifest, ManifestInvalid for a bad one, LayoutTooNew for one of a newer keepstep.
        """
        return self._catalog.read(directory, state)

    def stands(self, checkpoint: Checkpoint) -> bool:
        """True while it lies where it was, and no other commit of its step took its place. Raises what `read_manifest`
        raises.
        """
        return self.read_manifest(self.key(checkpoint), checkpoint.state).generation == checkpoint.generation

    def verify(
        self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None, *, alone: Collection[str] | None = None
    ) -> Verification:
        """A full check of every byte, or of these files `alone`, the others by their sizes; `on_bytes` is told how many
        were read.
        """

        def of_those(store: Store, path: str, file: FileEntry, on_bytes: OnBytes | None) -> str:
            return check_file(store, path, file, on_bytes) if alone is None or file.path in alone else ""

        found = verify_files(self.store, self.key(checkpoint), checkpoint.files, on_bytes, of_those)
        if alone is None and (wrong := self._wrong_with_manifest(checkpoint)):
            found = replace(found, problems=(Problem(MANIFEST_NAME, wrong), *found.problems))
        return Verification.of(checkpoint, found)

    def _wrong_with_manifest(self, checkpoint: Checkpoint) -> str:
        """What is wrong with a manifest as it lies there, whenever it was listed from; nothing where it is gone."""
        try:
            self.stands(checkpoint)
        except CheckpointCorrupt as error:
            return error.message.removeprefix(f"{checkpoint.path}/{MANIFEST_NAME} ")
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            return f"can't be read: {error.strerror or error}"
        return ""

    def examine(self, checkpoint: Checkpoint) -> Verification:
        """A check by names and sizes alone: what is torn, cut or planted is found, and no byte is read."""
        return self.verify(checkpoint, alone=())

    def lacking(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Paths of its files that a resume needs and that are gone, by their names alone: nothing is read."""
        key = self.key(checkpoint)
        needed = [file.path for file in checkpoint.files if lack_of(file) is Need.RESUME]
        gone = tuple(path for path in needed if not self.store.exists(f"{key}/{path}"))
        # Without its manifest all of it may be on its way out.
        return gone if gone and self.store.exists(f"{key}/{MANIFEST_NAME}") else ()

    def added(self, checkpoint: Checkpoint) -> list[Entry]:
        """What lies in its directory beside it, and no loader reads. Raises OSError."""
        return added_to(self.store, self.key(checkpoint), checkpoint.files)

    # -- sealing ---------------------------------------------------------------------------------------

    def look(self, checkpoint: Checkpoint) -> Look:
        """How its files stand now, to be given to `seal`; nothing is read."""
        return look(self.store, self.key(checkpoint), checkpoint.generation)

    def changes(self, checkpoint: Checkpoint, since: Look | None = None, on_bytes: OnBytes | None = None) -> Changes:
        """What others have made of a checkpoint since it was committed, or since a look; nothing is changed.

        With `since` only files that may be others by now are read. Raises CheckpointNotFound when it is gone, or was
        saved anew, OSError.
        """
        try:
            key = self.key(checkpoint)
            found = find_changes(self.store, key, since=since, state=checkpoint.state, on_bytes=on_bytes)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointNotFound(f"{checkpoint.path} is gone: it was moved or removed") from error
        if found.before.generation != checkpoint.generation or found.before.run_id != checkpoint.run_id:
            raise CheckpointNotFound(f"{checkpoint.path} is another checkpoint by now: its step was saved anew")
        return found

    def seal(self, changes: Changes) -> Checkpoint:
        """Make the changes the checkpoint's own, durably; returns it as it is now.

        The new manifest takes the old one's place in one step, after all files of others are durable: a crash leaves
        one of the two. Raises StorageError.
        """
        try:
            write_seal(self.store, self.key(changes.before), changes)
        except OSError as error:
            raise StorageError(
                f"what was changed in {changes.before.path} could not be sealed: {error.strerror or error}",
                hint="Its manifest is the one of before, or the new one; nothing else was touched.",
                errno=error.errno,
            ) from error
        return changes.after

    def adopt(self, draft: Checkpoint, on_bytes: OnBytes | None = None) -> Checkpoint:
        """Make a directory that others wrote, `draft.path`, the run's checkpoint, durably; returns it.

        `draft` has its files without digests. A crash leaves it as it was. Raises StorageError.
        """
        try:
            return adopt(self.store, self.key(draft), replace(draft, run_id=self.run_id), on_bytes)
        except OSError as error:
            raise StorageError(
                f"{draft.path} could not be adopted: {error.strerror or error}",
                hint="It stays as it was.",
                errno=error.errno,
            ) from error

    # -- helpers ---------------------------------------------------------------------------------------

    def _read_tree(self, room: str, state: State, depth: int) -> list[Checkpoint]:
        found = list(self._catalog.room(room, state).checkpoints)
        if depth:
            for entry in self.store.list(room):
                if entry.kind == "directory" and parse_name(entry.path) is None:
                    found += self._read_tree(f"{room}/{entry.path}", state, depth - 1)
        return found

    def _is_ours(self, name: str) -> bool:
        try:
            return recovery.is_directory(self.store, name) and self.read_manifest(name).run_id == self.run_id
        except (OSError, CheckpointCorrupt):
            return False

    def key(self, checkpoint: Checkpoint) -> str:
        """Where a checkpoint lies in the store."""
        if checkpoint.path is None:
            raise ValueError(f"{checkpoint.name} is not on disk")
        return checkpoint.path.relative_to(self.store.local_path("")).as_posix()

    def _entries(self, room: str) -> list[Entry]:
        return recovery.entries_of(self.store, room)

    def move(self, key: str, home: str, name: str = "") -> str:
        """Durably move a directory into `home`, which is made ("": the run's own), under the same name unless one is
        given; returns its new key. A failure moves it back.
        """
        return self._move(key, home, name or key.rpartition("/")[2])

    def _move(self, key: str, home: str, name: str) -> str:
        return moving.move(self.store, key, home, name)
