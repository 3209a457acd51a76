"""Where the bytes of one run are: its checkpoints by their manifests, everything else by a look at the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from keepstep import layout
from keepstep.model import Checkpoint, Role, State, parse_name, role_of
from keepstep.operations.seeing.finding import Found, search
from keepstep.operations.usage.inodes import Inodes, Sum
from keepstep.operations.usage.report import Kinds, Litter, Share, Unmanaged, Usage
from keepstep.repository import MANIFEST_NAME, Listing
from keepstep.retention import Decision, Latest, Outcome, Plan, Policy
from keepstep.run import Run
from keepstep.stores import TEMPORARY_SUFFIX

ROOMS = {
    layout.STAGING: "being written, or left by a killed save",
    layout.TRASH: "being deleted",
    layout.REPLACED: "an older save of the same step, being replaced",
    layout.TIMELINES: "set aside by a rewind",
    layout.QUARANTINE: "found damaged, kept until a person decides",
    layout.PREVIOUS: "set aside by a fresh start, and what lay in the way",
}
"""Keepstep's rooms for what is no checkpoint of the run now, and what lies there."""
PRUNED_BY = {layout.TIMELINES: "--aside", layout.QUARANTINE: "--quarantined", layout.PREVIOUS: "--previous"}
"""The option of `keepstep prune` that removes the checkpoints of a room."""
LEFTOVERS = "leftovers"
_ROLES = (Role.WEIGHTS, Role.OPTIMIZER, Role.OTHER)
"""In the order of `Kinds`."""


def usage(run: Run, *, check: bool = False, found: Found | None = None, inodes: Inodes | None = None) -> Usage:
    """Where the bytes of a run are, and what a prune or a thin would free.

    Committed checkpoints count what their manifests list, so that thousands cost no more than a listing; what is no
    checkpoint is looked up on the disk. `check` walks all of it. `found` is what a search found at or above the run,
    and `inodes` what was counted before, where there is any. Runs below this one are not counted. Raises OSError when
    the run's own directory can't be read.
    """
    found, inodes = found or search(run.path), inodes or Inodes()
    before = len(inodes.unreadable)
    listing = run.listing()
    if not check:
        inodes.count_already(lambda: _files_of(listing.checkpoints))
    walked = _walked(listing.checkpoints, inodes) if check else {}
    rest = _Rest(run, listing, found, inodes)
    plan = run.plan(checkpoints=listing.checkpoints)
    shares = tuple(_shares(run, plan, walked))
    aside = tuple(decision.checkpoint for decision in plan.aside)
    return Usage(
        path=run.path,
        run_id=run.id,
        checked=check,
        shares=shares,
        litter=tuple(rest.litter(aside)),
        unmanaged=tuple(rest.unmanaged()),
        records_bytes=(records := rest.records()).files,
        prune_aside_bytes=sum(checkpoint.size_bytes for checkpoint in plan.remove_aside),
        limits=run.limits,
        set_aside_bytes=sum(c.size_bytes for c in aside if c.state is State.SET_ASIDE),
        quarantined_bytes=sum(c.size_bytes for c in aside if c.state is State.QUARANTINED),
        previous_bytes=sum(c.size_bytes for c in aside if c.state is State.PREVIOUS),
        directories_bytes=records.directories
        + rest.sums.directories
        + sum(w.sums.directories for w in walked.values()),
        allocated=records.allocated + rest.sums.allocated + sum(w.sums.allocated for w in walked.values())
        if check
        else None,
        disk=run.store.room(),
        unreadable=tuple(inodes.unreadable[before:]),
        managed=run.managed,
    )


def _files_of(checkpoints: tuple[Checkpoint, ...]) -> Iterator[Path]:
    for checkpoint in checkpoints:
        if checkpoint.path is not None:
            yield from (checkpoint.path / file.path for file in checkpoint.files)


class _Walked:
    """What lies in one checkpoint's directory."""

    def __init__(self, checkpoint: Checkpoint, inodes: Inodes) -> None:
        assert checkpoint.path is not None
        self.roles = dict.fromkeys(_ROLES, 0)
        self.files = 0
        self.sums = Sum()
        files = directories = allocated = 0
        for inode in inodes.walk(checkpoint.path):
            allocated += inode.allocated
            if inode.is_directory:
                directories += inode.size
                continue
            files += inode.size
            self.files += 0 if inode.path == MANIFEST_NAME else inode.size
            self.roles[role_of(inode.path)] += inode.size
        self.sums = Sum(files, directories, allocated)


def _walked(checkpoints: tuple[Checkpoint, ...], inodes: Inodes) -> dict[int, _Walked]:
    return {checkpoint.generation: _Walked(checkpoint, inodes) for checkpoint in checkpoints}


def _shares(run: Run, plan: Plan, walked: dict[int, _Walked]) -> Iterator[Share]:
    thinnable = _may_be_thinned(run, tuple(decision.checkpoint for decision in plan.decisions))
    for decision in plan.decisions:
        found = walked.get(decision.checkpoint.generation)
        yield share_of(
            decision,
            thinnable=decision.checkpoint.generation in thinnable,
            kinds=_kinds(found.roles) if found else None,
            allocated=found.sums.allocated if found else None,
            found_bytes=found.files if found else None,
        )


def share_of(
    decision: Decision,
    *,
    thinnable: bool,
    kinds: Kinds | None = None,
    allocated: int | None = None,
    found_bytes: int | None = None,
) -> Share:
    """What a checkpoint takes by its manifest, or by what was found where that was looked at (`kinds`)."""
    listed = _kinds(_roles(decision.checkpoint))
    return Share(
        decision.checkpoint,
        kinds or listed,
        decision.outcome,
        _frees(decision, listed),
        listed.optimizer if thinnable else 0,
        listed.total,
        allocated,
        found_bytes,
    )


def _roles(checkpoint: Checkpoint) -> dict[Role, int]:
    roles = dict.fromkeys(_ROLES, 0)
    for file in checkpoint.files:
        roles[role_of(file.path)] += file.size
    return roles


def _kinds(roles: dict[Role, int]) -> Kinds:
    return Kinds(*roles.values())


def _frees(decision: Decision, listed: Kinds) -> int:
    match decision.outcome:
        case Outcome.KEEP:
            return 0
        case Outcome.THIN:
            return listed.optimizer
        case Outcome.REMOVE:
            return listed.total


def _may_be_thinned(run: Run, checkpoints: tuple[Checkpoint, ...]) -> frozenset[int]:
    """Generations that `keepstep thin` would not refuse."""
    if not run.managed:
        return frozenset()
    plan = run.plan(Policy((Latest(1),)), checkpoints=checkpoints)
    return frozenset(c.generation for c in plan.remove if c.thinnable)


class _Rest:
    """What lies in a run's directory beside its committed checkpoints, all of it by a look at the disk."""

    def __init__(self, run: Run, listing: Listing, found: Found, inodes: Inodes) -> None:
        self._path = run.path
        self._inodes = inodes
        self.sums = Sum()
        own = os.fspath(run.path)
        self._committed = {os.path.join(own, c.path.name if c.path else c.name) for c in listing.checkpoints}
        self._foreign = {os.fspath(foreign.path): foreign.reason for foreign in listing.foreign}
        self._runs = frozenset(os.fspath(path) for path in found.runs if path != run.path)
        self._stock = [p for p in found.stock if p != run.path and _innermost(p, found.runs) == run.path]
        self._counted: set[str] = set()

    def litter(self, aside: tuple[Checkpoint, ...]) -> Iterator[Litter]:
        """Every room that holds anything, and what interrupted steps left beside them."""
        for room, what in ROOMS.items():
            place = self._path / room
            if place.is_symlink() or not place.is_dir():
                continue
            took = self._take(place)
            if took.files:
                inside = sum(c.path is not None and c.path.is_relative_to(place) for c in aside)
                option = PRUNED_BY.get(room, "") if inside else ""
                yield Litter(place.name, what, took.files, took.allocated, inside, option)
        leftovers = [self._take(place) for place in self._leftovers()]
        if files := sum(took.files for took in leftovers):
            yield Litter(LEFTOVERS, "left by an interrupted step", files, sum(took.allocated for took in leftovers))

    def _leftovers(self) -> Iterator[Path]:
        """Temporary files, and weights beside the full checkpoint that they were to replace."""
        meta = self._path / layout.META
        yield from (meta / entry.name for entry in _entries(meta) if entry.name.endswith(TEMPORARY_SUFFIX))
        for entry in _entries(self._path):
            known = entry.path in self._committed or entry.path in self._foreign
            if not known and parse_name(entry.name) is not None and entry.is_dir(follow_symlinks=False):
                yield self._path / entry.name

    def unmanaged(self) -> Iterator[Unmanaged]:
        """Directories of checkpoints that are none of the run's."""
        places = [(Path(path), reason) for path, reason in self._foreign.items()]
        places += [(path, "checkpoints that belong to no run") for path in self._stock]
        for place, reason in places:
            took = self._take(place)
            yield Unmanaged(place, reason, took.files, took.allocated)

    def records(self) -> Sum:
        """What nothing else has counted. Call it last."""
        return self._inodes.sum(self._path, without=frozenset(self._committed | self._counted | self._runs))

    def _take(self, place: Path) -> Sum:
        took = self._inodes.sum(place, without=self._runs)
        self._counted.add(os.fspath(place))
        self.sums = Sum(*(one + more for one, more in zip(self.sums, took, strict=True)))
        return took


def _entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return list(entries)
    except OSError:
        return []


def _innermost(path: Path, runs: tuple[Path, ...]) -> Path | None:
    """The run that a path lies in, and no run below that."""
    return max((run for run in runs if path.is_relative_to(run)), key=lambda run: len(run.parts), default=None)
