"""Where runs lie below a directory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keepstep import layout
from keepstep.errors import KeepstepError, RunNotFound
from keepstep.model import parse_name
from keepstep.run import holds_manifest
from keepstep.stock import is_other

DEPTH = 8
"""Levels below the root that are looked at."""


class NoDirectory(KeepstepError, NotADirectoryError):
    """What should be searched is no directory."""

    code = "no-directory"
    exit_code = 3


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A directory or file that could not be looked at, and what the system says of it."""

    path: Path
    reason: str

    def to_json(self) -> dict[str, str]:
        """Plain values for machines."""
        return {"path": str(self.path), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Found:
    """Runs, directories of checkpoints that belong to no run, and what could not be read; each ordered by path.

    `others` are files and directories that other writers than a Trainer left, by the directory that they lie in.
    """

    runs: tuple[Path, ...]
    stock: tuple[Path, ...]
    unreadable: tuple[Unreadable, ...]
    others: Mapping[Path, tuple[str, ...]] = field(default_factory=dict[Path, tuple[str, ...]])


def find_runs(root: str | os.PathLike[str], *, depth: int = DEPTH) -> list[Path]:
    """Directories of runs at and below `root`, managed or not, ordered by path; see `search`. Raises NoDirectory."""
    found = search(root, depth=depth)
    return sorted((*found.runs, *found.stock))


def no_run_below(places: Iterable[str | os.PathLike[str]]) -> RunNotFound:
    """The error for a search of these places that found nothing."""
    return RunNotFound(
        f"there is no run in or below {', '.join(os.fspath(place) for place in places)}",
        hint="A run is an output_dir that keepstep manages: it has a .keepstep directory, or checkpoints of its own.",
    )


def search(root: str | os.PathLike[str], *, depth: int = DEPTH) -> Found:
    """What lies at and below `root`, at most `depth` levels down, and runs inside of runs too.

    A run is a directory with `.keepstep/run.json`, whatever that says, or without it a directory of checkpoints that
    have manifests. Links are not followed, except `root` itself; checkpoints and hidden directories are not entered, so
    that a run costs one listing however many checkpoints it has. What can't be read is said, and the search goes on.
    Raises NoDirectory.
    """
    place = Path(root)
    if not place.is_dir():
        raise NoDirectory(f"{place} is no directory", hint="Give a run, or a directory that runs lie below.")
    search_ = _Search()
    search_.look(os.fspath(place), depth)
    return Found(
        tuple(sorted(search_.runs)),
        tuple(sorted(search_.stock)),
        tuple(sorted(search_.unreadable, key=lambda item: item.path)),
        {path: tuple(sorted(names)) for path, names in sorted(search_.others.items())},
    )


class _Search:
    def __init__(self) -> None:
        self.runs: list[Path] = []
        self.stock: list[Path] = []
        self.unreadable: list[Unreadable] = []
        self.others: dict[Path, list[str]] = {}

    def look(self, place: str, depth: int) -> None:
        below: list[str] = []
        checkpoints: list[str] = []
        others: list[str] = []
        hidden = False
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name == layout.META:
                        hidden = True
                    elif parse_name(entry.name) is not None:
                        checkpoints += [entry.name] if entry.is_dir(follow_symlinks=False) else []
                    elif is_other(entry):
                        others.append(entry.name)
                    elif not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
            is_run = hidden and os.path.isfile(os.path.join(place, layout.RUN))
            is_run = is_run or holds_manifest(place, checkpoints)
        except OSError as error:
            self.unreadable.append(Unreadable(Path(place), error.strerror or str(error)))
            return
        if is_run:
            self.runs.append(Path(place))
        elif checkpoints:
            self.stock.append(Path(place))
        elif others:
            self.others[Path(place)] = others
        if depth:
            for directory in below:
                self.look(directory, depth - 1)
