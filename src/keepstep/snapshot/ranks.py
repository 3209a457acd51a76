"""The processes of one data-parallel training: what one decides all agree on, and what fails on one fails on all."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from unittest.mock import patch

import torch.distributed as dist

from keepstep.errors import KeepstepError

T = TypeVar("T")
LEAD = 0
"""The rank that decides, and the only one that writes."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one rank came to: a value, or what it failed with."""

    value: Any = None
    failure: BaseException | None = None


class Ranks:
    """This process among all that train together; a single process agrees with itself at no cost.

    Every rank calls the same methods in the same order. They talk over the CPU, in a group of their own, so that
    nothing of theirs meets the training's own traffic; `patience` in seconds is how long one waits for another.
    """

    def __init__(self, rank: int = LEAD, size: int = 1, *, patience: float = 1800.0) -> None:
        self.rank = rank
        self.size = size
        self._patience = patience
        self._group: Any = None
        self._world: Any = None
        self._deciding = False
        self.alone = False
        """True once others are gone: from then on this process agrees with itself."""

    @property
    def leads(self) -> bool:
        """True in the process that decides and writes."""
        return self.rank == LEAD

    @property
    def single(self) -> bool:
        """True when this process trains alone."""
        return self.size == 1

    def agree(self, decide: Callable[[], T]) -> T:
        """What `decide` returns on rank 0, on every rank; what it raises there is raised on every rank.

        An agreement that rank 0 comes to inside of another is its own: the others wait for the outer one.
        """
        if self.single or self.alone or self._deciding:
            return decide()
        outcome = _Outcome()
        if self.leads:
            self._deciding = True
            try:
                outcome = _attempt(decide)
            finally:
                self._deciding = False
        return _result(self._broadcast(outcome), outcome)

    def together(self, act: Callable[[], T]) -> list[T]:
        """Run `act` on every rank; rank 0 gets what each returned, by rank, the others get nothing.

        What one raises is raised on every rank; of several, each rank raises its own, and others the first.
        """
        if self.single or self.alone:
            return [act()]
        outcome = _attempt(act)
        outcomes: list[Any] | None = [None] * self.size if self.leads else None
        group = self._open()
        dist.gather_object(_portable(outcome, self.rank), outcomes, dst=LEAD, group=group)
        all_of_them: list[_Outcome] = outcomes or []
        first = next((one for one in all_of_them if one.failure is not None), _Outcome())
        _result(self._broadcast(first), outcome)
        return [one.value for one in all_of_them]

    def all_here(self, patience: float) -> bool:
        """Whether every rank comes to this call within so many seconds; each has to ask."""
        if self.single:
            return True
        try:
            dist.monitored_barrier(self._open(), timedelta(seconds=patience))
        except (
            RuntimeError,
            ValueError,
        ):  # what torch raises of a rank that is missing, or a connection that is closed
            return False
        return True

    @contextmanager
    def apart(self) -> Iterator[None]:
        """While it lasts this process acts alone: barriers, which the others do not come to, are passed at once."""
        if self.single:
            yield
            return
        with patch.object(dist, "barrier", lambda *args, **kwargs: None):
            yield

    def _broadcast(self, outcome: _Outcome) -> _Outcome:
        group = self._open()
        carried: list[Any] = [_portable(outcome, self.rank) if self.leads else None]
        dist.broadcast_object_list(carried, src=LEAD, group=group)
        return carried[0]

    def _open(self) -> Any:
        """The group of these agreements: made at the first, and anew where the training's own was."""
        if self._group is None or self._world is not dist.group.WORLD:
            self._group, self._world = self.new_group(), dist.group.WORLD
        return self._group

    def new_group(self) -> Any:
        """One more group of all ranks, over the CPU; every rank makes it."""
        return dist.new_group(backend="gloo", timeout=timedelta(seconds=self._patience))


def _attempt(act: Callable[[], T]) -> _Outcome:
    try:
        return _Outcome(value=act())
    except BaseException as error:
        return _Outcome(failure=error)


def _result(agreed: _Outcome, mine: _Outcome) -> Any:
    """The agreed value. Raises this rank's own failure, or the agreed one."""
    if mine.failure is not None:
        raise mine.failure
    if agreed.failure is not None:
        raise agreed.failure
    return agreed.value


def _portable(outcome: _Outcome, rank: int) -> _Outcome:
    """The outcome as another process can read it: an error that can't travel becomes one that tells of it."""
    if outcome.failure is None:
        return outcome
    try:
        failure = pickle.loads(pickle.dumps(outcome.failure))  # noqa: S301 - its own bytes
        same = type(failure) is type(outcome.failure) and str(failure) == str(outcome.failure)
    except Exception:  # whatever a class of somebody's raises when it is built without its arguments
        same = False
    if same:
        return outcome
    return _Outcome(failure=KeepstepError(f"rank {rank}: {type(outcome.failure).__name__}: {outcome.failure}"))
