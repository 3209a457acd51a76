"""A training's part in the budget of the tree that its run lies in: it asks for room, and gives what others ask for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keepstep.operations.tree.budget import Budget, read_budget
from keepstep.operations.tree.census import Census, Counted
from keepstep.operations.tree.giving import Givers, clear_unfinished, delete, leaving_of
from keepstep.operations.tree.ledger import Ask, Ledger
from keepstep.operations.tree.locks import check_locks
from keepstep.operations.tree.shares import Way, way_for
from keepstep.run import Run
from keepstep.units import format_size

if TYPE_CHECKING:
    from filelock import FileLock

LONGEST_DELETION = 30.0
"""Seconds to wait for what others are deleting before a save is refused."""
_LOOK_AGAIN = 0.02


@dataclass(frozen=True, slots=True)
class Lack:
    """How many bytes a save is short of, and why; `own` is what of it its run can give up, 0 where that is no help;
    `hint` names a way out.
    """

    bytes: int
    why: str
    own: int = 0
    hint: str = ""


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look inside the tree's lock found, and what is to be deleted behind it."""

    lack: Lack | None
    going: list[Path]
    waits: bool = False
    """Whether the room that was claimed is there once what is being deleted is gone."""


class TreeRoom:
    """The part of one training, which holds its run's lock. Raises LocksRefused where no locks hold."""

    def __init__(self, root: Path, run: Run) -> None:
        check_locks(root)
        self.root = root
        self._run = run
        self._path = Path(os.path.realpath(run.path))
        self._ledger = Ledger(root)
        self._census = Census(root, also=self._path)
        self._part: FileLock | None = None
        self._claims = False
        self._promised: list[Ask] = []

    def take(self, need: int, spare: Callable[[], int], dispose: Callable[[], None]) -> Lack | None:
        """Claim room for a save of `need` bytes; None once it is there, for as long as `release` is not called.

        Others that share give up what they can, by their own policies; what is to go of the training's own is for the
        caller, and so is a refusal. `spare` is what it could give up itself, `dispose` frees what it has given up.
        Raises TreeBusy, OSError.
        """
        with self._ledger.locked():
            if self._part is None:
                self._part = self._ledger.enter(self._path)
            look = self._look(need, spare)
        delete(look.going)
        if look.waits:
            dispose()
            return self._until_deleted(need)
        return look.lack

    def _look(self, need: int, spare: Callable[[], int]) -> _Look:
        budget = read_budget(self.root)
        if budget is None:
            return _Look(None, [])
        counted = self._count()
        short = sum(one.takes for one in counted) + need - budget.budget
        going: list[Path] = []
        if short > 0:
            going = clear_unfinished(one for one in counted if one.path != self._path)
            counted = self._count() if going else counted
            short = sum(one.takes for one in counted) + need - budget.budget
        if short > 0:
            lack, given = self._make_way(counted, short, need, spare(), self._why(budget, need))
            going += given
            if lack is not None:
                return _Look(lack, going)
        self._ledger.claim(self._path, need, self._run.next_generation())
        self._ledger.withdraw(self._path)
        self._claims = True
        return _Look(None, going, waits=short + sum(one.leaving for one in counted) > 0)

    def _make_way(
        self, counted: list[Counted], short: int, need: int, spare: int, why: str
    ) -> tuple[Lack | None, list[Path]]:
        """Let others give up what the training is short of; what of it is left, and what is to be deleted."""
        with Givers([one for one in counted if one.path != self._path]) as givers:
            way = way_for(short, spare, givers.members)
            if not way.now:
                for path in way.asked:
                    self._ledger.ask(path, self._path, need, self._run.next_generation())
                return Lack(short, why + _asked(way), hint=self._way_out()), []
            going: list[Path] = []
            before = sum(one.takes for one in counted)
            for path, bytes_ in way.from_others:
                going += givers.give(path, bytes_, f"{why}, for {self._path}")
        left = short - (before - sum(one.takes for one in self._count())) if going else short
        return (Lack(left, why, own=left) if left > 0 else None), going

    def _until_deleted(self, need: int) -> Lack | None:
        """Return when what is being deleted leaves the room that was claimed. It is helped with."""
        began = time.monotonic()
        while (budget := read_budget(self.root)) is not None:
            with self._ledger.locked():
                counted = self._count()
            leaving = sum(one.leaving for one in counted)
            if not leaving or sum(one.takes for one in counted) + leaving + need <= budget.budget:
                return None
            if time.monotonic() > began + LONGEST_DELETION:
                self.release()
                return Lack(leaving, f"{format_size(leaving)} below {self.root} are not deleted yet")
            delete(leaving_of(counted))
            time.sleep(_LOOK_AGAIN)
        return None

    def _count(self) -> list[Counted]:
        """All runs, with what the others have claimed."""
        claims = self._ledger.claims(mine=self._path)
        return self._census.count(claims)

    def _why(self, budget: Budget, need: int) -> str:
        return f"over the budget of {format_size(budget.budget)} of {self.root} with one more of {format_size(need)}"

    def _way_out(self) -> str:
        return (
            f"See who has the room: keepstep budget show {self.root}. Others give theirs where they were trained with "
            f"attach(trainer, shared=True), or by hand: keepstep prune --root {self.root}. Or raise the budget."
        )

    def release(self) -> None:
        """The save is committed, or will not be. Never fails, and waits for nobody."""
        if self._claims:
            self._ledger.give_back(self._path)
            self._claims = False

    def asked(self) -> Lack | None:
        """What others ask this training to give up now, None for nothing; `keep_promises` is to be called behind that.

        Only one that shares gives to others, and every one to a person. Raises TreeBusy, OSError.
        """
        self._promised = []
        if not self._ledger.is_asked(self._path):
            return None
        with self._ledger.locked():
            asks = self._ledger.take_asks(self._path)
            budget = read_budget(self.root)
            asks = [ask for ask in asks if self._run.limits.shared or not ask.by]
            if budget is None or not asks:
                return None
            taken = sum(one.takes for one in self._count())
        self._promised = [ask for ask in asks if ask.by]
        need = sum(ask.need for ask in self._promised)
        short = taken + max(need, 0 if len(self._promised) == len(asks) else budget.reserve) - budget.budget
        who = " and ".join(sorted({str(self.root / ask.by) if ask.by else "a prune" for ask in asks}))
        return Lack(short, f"asked for room below {self.root} by {who}", own=short) if short > 0 else None

    def keep_promises(self) -> None:
        """What was given up is for those that asked, and for nobody else. Raises TreeBusy, OSError."""
        promised, self._promised = self._promised, []
        if not promised:
            return
        with self._ledger.locked():
            budget = read_budget(self.root)
            free = 0 if budget is None else budget.budget - sum(one.takes for one in self._count())
            for ask in promised:
                if ask.need <= free:
                    self._ledger.claim(self.root / ask.by, ask.need, ask.generation)
                    free -= ask.need

    def leave(self) -> None:
        """The training is over: nothing is claimed or asked for by it any more."""
        if self._part is not None:
            self._ledger.give_back(self._path)
            self._ledger.withdraw(self._path)
            self._part.release()
            self._part = None


def _asked(way: Way) -> str:
    if not way.asked:
        return ""
    return f"; {' and '.join(map(str, way.asked))} {'is' if len(way.asked) == 1 else 'are'} asked to give up some"
