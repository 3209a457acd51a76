"""Where the bytes at and below some directories are: runs, checkpoints without a run, and the rest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from keepstep.errors import KeepstepError
from keepstep.operations.remembering import Memory
from keepstep.operations.seeing.finding import Found, Unreadable, search
from keepstep.operations.usage.inodes import Inodes
from keepstep.operations.usage.of_run import usage
from keepstep.operations.usage.report import OtherCheckpoint, Stock, TreeUsage, Usage
from keepstep.operations.usage.sizes import Sizes
from keepstep.run import Run, StockRun
from keepstep.stock import other_layout


def usage_of_tree(
    roots: Iterable[str | os.PathLike[str]], *, check: bool = False, memory: Memory | None = None
) -> TreeUsage:
    """Where the bytes at and below `roots` are; a root below another one counts once.

    A run that can't be opened counts as a directory that is not managed, with the reason. `check` walks the disk for
    committed checkpoints too, and for what `memory` knows of others. Raises NoDirectory.
    """
    places = _outermost([Path(root) for root in roots])
    searched = [search(place) for place in places]
    found = Found(
        tuple(path for one in searched for path in one.runs),
        tuple(path for one in searched for path in one.stock),
        tuple(item for one in searched for item in one.unreadable),
        {path: names for one in searched for path, names in one.others.items()},
    )
    tree = _Tree(found, check, memory or Memory(None), places)
    tree.take_runs()
    tree.take_stock()
    tree.take_others()
    sums = [tree.inodes.sum(place, without=frozenset(tree.counted) - {os.fspath(place)}) for place in tree.open(places)]
    return TreeUsage(
        roots=tuple(places),
        checked=check,
        runs=tuple(tree.runs),
        stock=tuple(tree.stock),
        elsewhere_bytes=sum(one.files for one in sums),
        elsewhere_allocated=sum(one.allocated for one in sums),
        elsewhere_directories_bytes=sum(one.directories for one in sums),
        unreadable=_once([*found.unreadable, *tree.inodes.unreadable]),
    )


class _Tree:
    def __init__(self, found: Found, check: bool, memory: Memory, roots: Sequence[Path]) -> None:
        self.inodes = Inodes()
        self._sizes = Sizes(memory, self.inodes, afresh=check)
        self._memory = memory
        self._roots = roots
        self.runs: list[Usage] = []
        self.stock: list[Stock] = []
        self.counted: set[str] = set()
        self._found = found
        self._check = check
        self._unopened: dict[Path, str] = {}

    def take_runs(self) -> None:
        for path in self._found.runs:
            try:
                self.runs.append(usage(Run.open(path), check=self._check, found=self._found, inodes=self.inodes))
            except (KeepstepError, OSError) as error:
                self._unopened[path] = error.message if isinstance(error, KeepstepError) else str(error)
            else:
                self.counted.add(os.fspath(path))

    def take_stock(self) -> None:
        """Checkpoints outside of every run, and runs that can't be opened; those in a run are counted with it."""
        inside = {found.path for run in self.runs for found in run.unmanaged}
        places = {
            path: "checkpoints that belong to no run" for path in self._found.stock if path not in inside
        } | self._unopened
        everything = self.counted | {os.fspath(path) for path in places}
        for path, reason in sorted(places.items()):
            self.stock.append(self._stock(path, reason, frozenset(everything)))
        self._memory.trim()
        self.counted = everything

    def take_others(self) -> None:
        """What other writers left, where it lies in no run and in no directory that is counted as a whole."""
        for path, names in self._found.others.items():
            if not {os.fspath(above) for above in (path, *path.parents)} & self.counted:
                self.stock.append(self._others(path, names))
        self.counted |= {os.fspath(found.path / o.name) for found in self.stock for o in found.others}

    def _others(self, path: Path, names: Iterable[str]) -> Stock:
        found: list[OtherCheckpoint] = []
        directories = 0
        for name in names:
            took, other = self.inodes.sum(path / name), other_layout(name)
            assert other is not None
            directories += took.directories
            found.append(OtherCheckpoint(name, other.writer, other.step, took.files, took.allocated))
        found.sort(key=lambda one: (one.step is None, one.step or 0, one.name))
        writers = " and ".join(dict.fromkeys(one.writer for one in found))
        size, allocated = sum(one.size_bytes for one in found), sum(one.allocated for one in found)
        return Stock(path, len(found), f"checkpoints of {writers}", size, allocated, directories, others=tuple(found))

    def _stock(self, path: Path, reason: str, everything: frozenset[str]) -> Stock:
        """A directory of checkpoints: those by what is remembered of them, or a walk; the rest by a walk."""
        sums = list(self._sizes.of(path).values())
        names = {os.path.join(path, name) for name in self._sizes.of(path)}
        sums.append(self.inodes.sum(path, without=(everything | names) - {os.fspath(path)}))
        files, directories, allocated = (sum(column) for column in zip(*sums, strict=True))
        return Stock(path, len(names), reason, files, allocated, directories, self._detail(path))

    def _detail(self, path: Path) -> Usage | None:
        """Checkpoint by checkpoint, where the directory is the one that was asked for."""
        if list(self._roots) != [path] or path in self._unopened or self._found.runs:
            return None
        try:
            return usage(StockRun.open(path), check=self._check, found=self._found, inodes=Inodes())
        except (KeepstepError, OSError):
            return None

    def open(self, places: Sequence[Path]) -> list[Path]:
        """Those of the places that are not counted as a whole."""
        return [place for place in places if os.fspath(place) not in self.counted]


def _outermost(places: list[Path]) -> list[Path]:
    """The places that lie in no other one, each once, in the order that they were given."""
    real = {place: place.resolve() for place in dict.fromkeys(places)}
    all_of_them = frozenset(real.values())
    kept: dict[Path, Path] = {}
    for place, where in real.items():
        if all_of_them.isdisjoint(where.parents):
            kept.setdefault(where, place)
    return list(kept.values())


def _once(items: list[Unreadable]) -> tuple[Unreadable, ...]:
    return tuple({item.path: item for item in items}.values())
