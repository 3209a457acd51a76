"""The runs of a tree and the bytes that each takes, by manifests and a look at the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.operations.remembering import Memory
from keepstep.operations.seeing.finding import search
from keepstep.operations.tree.ledger import Claim
from keepstep.operations.usage.inodes import Inodes
from keepstep.operations.usage.sizes import Sizes, total
from keepstep.repository import MANIFEST_NAME, Listing
from keepstep.run import Run
from keepstep.stores import Stamp


@dataclass(frozen=True, slots=True)
class Counted:
    """One run, or checkpoints that belong to none (`run` None), and bytes on the disk.

    `kept` are those of checkpoints, of records and of a save in flight, which counts what was claimed for it at the
    least; `unfinished` those of a save that nobody claims any more, and of a removal that was only begun; `leaving`
    those that are being deleted.
    """

    path: Path
    run: Run | None
    kept: int
    unfinished: int = 0
    leaving: int = 0

    @property
    def takes(self) -> int:
        """All but what is being deleted."""
        return self.kept + self.unfinished


class Census:
    """Counts the runs of one tree, and one more wherever it lies below the root. What was read of a manifest is used
    again while it is the same.
    """

    def __init__(self, root: Path, *, also: Path | None = None) -> None:
        self._root = root
        self._also = () if also is None else (also,)
        self._memory = Memory.of_user()
        self._known: dict[Path, tuple[Stamp | None, Run]] = {}

    def count(self, claims: Mapping[Path, Claim]) -> list[Counted]:
        """Every run at and below the root, by path. `claims` must have been read before: what is committed meanwhile is
        found then in one place at the least.
        """
        found = search(self._root)
        inodes = Inodes()
        runs = dict.fromkeys((*found.runs, *self._also, *(path for path in claims if path.is_dir())))
        counted: list[Counted] = []
        for path in runs:
            try:
                counted.append(self._run(path, claims.get(path), inodes))
            except (KeepstepError, OSError):  # it can't be opened: its bytes are there all the same
                counted.append(Counted(path, None, inodes.sum(path, without=_others(path, runs)).files))
        sizes = Sizes(self._memory, inodes)
        counted += [Counted(path, None, total(sizes.of(path))) for path in found.stock]
        return sorted(counted, key=lambda one: one.path)

    def _run(self, path: Path, claim: Claim | None, inodes: Inodes) -> Counted:
        run = self._open(path)
        listing = run.repository.listing()
        committed = sum(checkpoint.size_bytes for checkpoint in listing.checkpoints)
        committed += sum(_manifest_bytes(place) for place in _places(listing))
        inodes.count_already(lambda: _files(listing))
        foreign = sum(inodes.sum(place.path).files for place in listing.foreign)
        # Behind the listing: what goes, or comes, meanwhile is found in one place at the least.
        staging, trash = path / layout.STAGING, path / layout.TRASH
        unfinished, leaving, whole = inodes.sum(staging).files, 0, 0
        for entry in run.store.list(layout.TRASH):
            size = inodes.sum(trash / entry.path).files
            if (trash / entry.path / MANIFEST_NAME).exists():  # nobody may delete it yet
                whole += size
            else:
                leaving += size
        without = frozenset(map(os.fspath, (staging, trash)))
        kept = committed + foreign + inodes.sum(path / layout.META, without=without).files
        newest = max((checkpoint.generation for checkpoint in listing.checkpoints), default=0)
        if claim is not None and claim.generation > newest:
            return Counted(path, run, kept + max(claim.bytes, unfinished), whole, leaving)
        return Counted(path, run, kept, unfinished + whole, leaving)

    def _open(self, path: Path) -> Run:
        known = self._known.get(path)
        if known is not None and known[0] is not None and known[0] == known[1].store.stamp(layout.RUN):
            return known[1]
        run = Run.open(path)
        self._known[path] = (run.store.stamp(layout.RUN), run)
        return run


def _places(listing: Listing) -> Iterator[Path]:
    return (checkpoint.path for checkpoint in listing.checkpoints if checkpoint.path is not None)


def _files(listing: Listing) -> Iterator[Path]:
    for checkpoint in listing.checkpoints:
        if checkpoint.path is not None:
            yield from (checkpoint.path / file.path for file in checkpoint.files)


def _manifest_bytes(place: Path) -> int:
    try:
        return os.lstat(place / MANIFEST_NAME).st_size
    except OSError:
        return 0


def _others(path: Path, runs: Mapping[Path, None]) -> frozenset[str]:
    return frozenset(os.fspath(other) for other in runs if other != path)
