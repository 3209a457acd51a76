"""Who may take what of a tree's budget, and who gives up for whom: arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a tree: bytes that it takes, a save in flight included, and bytes that it never gives up: its newest,
    its best, what is pinned or in use, and what is no checkpoint. `newest` is when it saved last.
    """

    path: Path
    takes: int
    least: int
    trains: bool = False
    shared: bool = False
    newest: datetime | None = None

    @property
    def surplus(self) -> int:
        """Bytes that it can give up."""
        return max(self.takes - self.least, 0)


@dataclass(frozen=True, slots=True)
class Share:
    """What one run may take, and what it has to give so that the budget and its reserve are kept; in bytes."""

    member: Member
    may_take: int
    gives: int


@dataclass(frozen=True, slots=True)
class Way:
    """How a training gets the bytes that it is short of: from others that don't train, from itself, or, where that is
    not enough, not now: then these are asked, and `lacking` is what nobody is known to have.
    """

    from_others: tuple[tuple[Path, int], ...] = ()
    from_itself: int = 0
    asked: tuple[Path, ...] = ()
    lacking: int = 0

    @property
    def now(self) -> bool:
        """True where all of it can be had at once."""
        return not self.asked and not self.lacking


def in_order(members: Iterable[Member]) -> list[Member]:
    """The order in which runs give up: those that don't train before those that do, of each the one that saved last
    longest ago before the others.
    """
    return sorted(members, key=lambda one: (one.trains, one.newest or _NEVER, str(one.path)))


def shares(members: Iterable[Member], budget: int, reserve: int) -> tuple[Share, ...]:
    """A share for every run, in the order in which they give up.

    All of them together give what is over `budget` less `reserve`, each down to what it never gives up before the next
    one gives. One that does not train may keep the rest of what it takes; one that trains may have all of the budget
    that others don't keep: the `least` of those that share, all of what the others take.
    """
    ordered = in_order(members)
    kept = sum(one.least if one.shared else one.takes for one in ordered)
    over = sum(one.takes for one in ordered) - (budget - reserve)
    found: list[Share] = []
    for one in ordered:
        gives = min(max(over, 0), one.surplus)
        over -= gives
        others = kept - (one.least if one.shared else one.takes)
        may_take = max(budget - others, one.least) if one.trains else one.takes - gives
        found.append(Share(one, may_take, gives))
    return tuple(found)


def way_for(short: int, spare: int, others: Sequence[Member]) -> Way:
    """How a training that is short of so many bytes gets them; `spare` it could give up itself.

    First give those that share and don't train, then it gives up its own; where both is not enough nobody gives, and
    those that share and train are asked.
    """
    giving = [one for one in in_order(others) if one.shared and not one.trains and one.surplus]
    left = short
    gifts: list[tuple[Path, int]] = []
    for one in giving:
        if left > 0:
            gifts.append((one.path, min(one.surplus, left)))
            left -= gifts[-1][1]
    if left <= spare:
        return Way(tuple(gifts), from_itself=max(left, 0))
    left -= spare
    asked: list[Path] = []
    for one in in_order(others):
        if left > 0 and one.shared and one.trains and one.surplus:
            asked.append(one.path)
            left -= one.surplus
    return Way(asked=tuple(asked), lacking=max(left, 0))
