"""Which runs the page shows: those that were named, and those that lie below the roots; each under a key."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.operations.seeing.finding import NoDirectory, find_runs
from keepstep.run import holds_run
from keepstep.web.answers import Refused
from keepstep.web.lane import Lane
from keepstep.web.view import RunView

FRESH_SECONDS = 2.0
"""How long what was found below a root is used again."""


@dataclass(frozen=True, slots=True)
class Root:
    """A directory below which runs are looked for; the thread that looks."""

    path: Path
    lane: Lane


class Sources:
    """The table of runs. A client names a run by its key alone: no path that it sends is ever opened."""

    def __init__(self, places: list[Path]) -> None:
        """Raises NoDirectory for a place that is none."""
        self.roots: list[Root] = []
        self._named: dict[str, RunView] = {}
        self._found: dict[str, RunView] = {}
        self._present: tuple[str, ...] = ()
        self._looked: float | None = None
        self.problems: tuple[str, ...] = ()
        for place in places:
            path = Path(os.path.realpath(place))
            if not path.is_dir():
                raise NoDirectory(f"{place} is no directory", hint="Give a run, or a directory that runs lie below.")
            if holds_run(path):
                view = RunView(path, path.name)
                self._named[view.key] = view
            else:
                self.roots.append(Root(path, Lane(str(path))))

    @property
    def single(self) -> str | None:
        """The key of the run when exactly one was named, and no root."""
        return next(iter(self._named)) if len(self._named) == 1 and not self.roots else None

    async def view(self, key: str) -> RunView:
        """The run of a key. Raises Refused (404) for one that is none of this table's."""
        view = self._named.get(key) or self._found.get(key)
        if view is None:
            await self.views()
            view = self._found.get(key)
        if view is None:
            raise Refused(404, "there is no such run on this page", hint="Go back to the list.", code="run-not-found")
        return view

    async def views(self) -> list[RunView]:
        """All runs, those named first, then those that lie below the roots now, by path."""
        if self.roots and (self._looked is None or time.monotonic() - self._looked > FRESH_SECONDS):
            await self._look()
        return [*self._named.values(), *(self._found[key] for key in self._present if key not in self._named)]

    async def _look(self) -> None:
        present: dict[str, None] = {}
        problems: list[str] = []
        for root in self.roots:
            try:
                paths = await root.lane.call(partial(_runs_below, root.path))
            except KeepstepError as error:
                problems.append(error.message)
                paths = [self._found[key].path for key in self._present]
                paths = [path for path in paths if path.is_relative_to(root.path)]
            for path in paths:
                view = RunView(path, os.path.relpath(path, root.path))
                # A key that was given out stays good: a run that comes back is the same one.
                present[self._found.setdefault(view.key, view).key] = None
        self._present, self._looked, self.problems = tuple(present), time.monotonic(), tuple(problems)


def _runs_below(root: Path) -> list[Path]:
    # A link in place of keepstep's own directory would lead out of the root.
    return [path for path in find_runs(root) if not (path / layout.META).is_symlink()]
