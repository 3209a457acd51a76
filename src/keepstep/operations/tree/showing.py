"""The budget of a tree as people set, see and clear it: what every run takes, may take, and would give up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepstep import layout
from keepstep.errors import KeepstepError, SettingsError
from keepstep.operations.removing.pruning import Bound
from keepstep.operations.seeing.finding import NoDirectory
from keepstep.operations.tree.budget import FORMAT_VERSION, Budget, must_have_budget, write_budget
from keepstep.operations.tree.census import Census, Counted
from keepstep.operations.tree.giving import as_member, least_of
from keepstep.operations.tree.ledger import Ledger
from keepstep.operations.tree.locks import check_locks
from keepstep.operations.tree.shares import Member, Share, shares
from keepstep.retention import Plan, Policy
from keepstep.run import Run
from keepstep.stores import MOUNTS
from keepstep.units import format_size


@dataclass(frozen=True, slots=True)
class TreeReport:
    """A budget and the share of every run, in the order in which they give up; `leaving_bytes` are being deleted."""

    root: Path
    budget: Budget
    shares: tuple[Share, ...]
    managed: frozenset[Path]
    leaving_bytes: int

    @property
    def taken_bytes(self) -> int:
        """Bytes of all runs, with what is claimed for saves in flight, without what is being deleted."""
        return sum(share.member.takes for share in self.shares)

    @property
    def over_bytes(self) -> int:
        """Bytes that a prune has to free so that budget and reserve are kept."""
        return max(self.taken_bytes - self.budget.budget + self.budget.reserve, 0)

    @property
    def stays_over_bytes(self) -> int:
        """Bytes of these that nobody gives up under any budget."""
        return self.over_bytes - sum(share.gives for share in self.shares)

    def state_of(self, member: Member) -> str:
        """What a run does, in a word or two."""
        if member.path not in self.managed:
            return "not managed"
        return "trains" if member.trains else "at rest"

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; bytes."""
        return {
            "root": str(self.root),
            "budget_bytes": self.budget.budget,
            "reserve_bytes": self.budget.reserve,
            "since": self.budget.since.isoformat(),
            "taken_bytes": self.taken_bytes,
            "leaving_bytes": self.leaving_bytes,
            "over_bytes": self.over_bytes,
            "stays_over_bytes": self.stays_over_bytes,
            "runs": [
                {
                    "run": str(share.member.path),
                    "state": self.state_of(share.member),
                    "shared": share.member.shared,
                    "takes_bytes": share.member.takes,
                    "never_gives_bytes": share.member.least,
                    "may_take_bytes": share.may_take,
                    "gives_bytes": share.gives,
                }
                for share in self.shares
            ],
        }


def new_budget(budget: int, reserve: int = 0) -> Budget:
    """A budget of so many bytes, of which a prune leaves `reserve` free. Raises SettingsError."""
    if not 0 <= reserve < budget:
        raise SettingsError(
            f"a reserve of {format_size(reserve)} leaves nothing of a budget of {format_size(budget)}",
            hint="The reserve is a part of the budget: room for the next saves.",
        )
    return Budget(FORMAT_VERSION, budget, reserve, datetime.now(UTC))


def set_budget(root: Path, budget: int, reserve: int = 0, *, mounts: Path = MOUNTS) -> Budget:
    """Put a budget in force for all runs at and below a directory; trainings keep to it from their next save on.

    Raises NoDirectory, SettingsError, LocksRefused, OSError.
    """
    new = new_budget(budget, reserve)
    if not root.is_dir():
        raise NoDirectory(f"{root} is no directory", hint="Give the directory that the runs lie below.")
    check_locks(root, mounts=mounts)
    write_budget(root, new)
    return new


def clear_budget(root: Path) -> Budget:
    """Take the budget of a directory away; returns it. No checkpoint is touched. Raises NoTreeBudget, TreeBusy."""
    old = must_have_budget(root)
    ledger = Ledger(root)
    with ledger.locked():
        os.unlink(root / layout.TREE_BUDGET)
        idle = not ledger.claims()
    if idle:
        shutil.rmtree(root / layout.TREE, ignore_errors=True)
    return old


def report(root: Path, budget: Budget | None = None) -> TreeReport:
    """What every run below a directory takes, may take and would give up; `budget` in place of the one in force.

    Raises NoTreeBudget, NoDirectory, TreeBusy.
    """
    budget = budget or must_have_budget(root)
    counted = _counted(root)
    members = [_member(one) for one in counted]
    managed = frozenset(one.path for one in counted if one.run is not None)
    found = shares(members, budget.budget, budget.reserve)
    return TreeReport(root, budget, found, managed, sum(one.leaving for one in counted))


@dataclass(frozen=True, slots=True)
class TreeLimit:
    """What a prune leaves one run of a tree: a bound on its checkpoints. One that trains is asked in place of that."""

    root: Path
    bound: Bound
    trains: bool


Planned = Callable[[Run], tuple[Plan, Policy] | None]
"""What becomes of a run's checkpoints before the tree's budget is looked at; None for one that is not to be touched."""


def limits_of(root: Path, planned: Planned) -> dict[str, TreeLimit]:
    """The runs that have to give up more than `planned` says so that a tree's budget and reserve are kept, by their
    real paths.

    Raises NoTreeBudget, TreeBusy.
    """
    budget = must_have_budget(root)
    why = f"over the budget of {format_size(budget.budget)} of {root}"
    why += f" with {format_size(budget.reserve)} in reserve" if budget.reserve else ""
    members: list[Member] = []
    stays: dict[Path, int] = {}
    for one in _counted(root):
        found = None if one.run is None else planned(one.run)
        if found is None or one.run is None:
            members.append(Member(one.path, one.takes, one.takes))
            continue
        plan, policy = found
        stays[one.path] = plan.kept_bytes + plan.kept_aside_bytes
        beside = one.takes - plan.taken_bytes
        least = beside + least_of(plan, policy, may_thin=True)
        newest = max((d.checkpoint.created for d in plan.decisions), default=None)
        members.append(Member(one.path, beside + stays[one.path], least, one.run.lock.in_use, True, newest))
    return {
        os.path.realpath(share.member.path): TreeLimit(
            root, Bound(stays[share.member.path] - share.gives, why), share.member.trains
        )
        for share in shares(members, budget.budget, budget.reserve)
        if share.gives
    }


def ask_by_hand(root: Path, path: Path) -> None:
    """Ask a run that trains to give up, at its next save, what a prune would. Raises TreeBusy, OSError."""
    ledger = Ledger(root)
    with ledger.locked():
        ledger.ask(path, None, 0)


def _counted(root: Path) -> list[Counted]:
    """Every run, as the disk and the claims are now; without the lock where nobody may write there."""
    ledger, census = Ledger(root), Census(root)
    if (root / layout.TREE_BUDGET).is_file():
        with suppress(PermissionError), ledger.locked():
            return census.count(ledger.claims())
    return census.count({})


def _member(one: Counted) -> Member:
    if one.run is not None:
        with suppress(KeepstepError, OSError):
            run = Run.open(one.path)
            return as_member(one, run.plan(), run.policy, trains=run.lock.in_use, may_thin=True)
    return Member(one.path, one.takes, one.takes)
