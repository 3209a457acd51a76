"""The processes of one training: what one decides all agree on, and what fails on one fails on all."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import torch.distributed as dist

from keepstep.errors import KeepstepError

T = TypeVar("T")
LEAD = 0
"""The rank that decides."""
_TALK, _FIRST = "what all ranks agree upon", "the first talk of a new group"


@dataclass(frozen=True, slots=True)
class _Errand:
    """What rank 0 has all others do while it decides: a name that they serve, and what is given to them."""

    name: str
    given: Any


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one rank came to: a value, or what it failed with."""

    value: Any = None
    failure: BaseException | None = None


class Ranks:
    """This process among all that train together; a single process agrees with itself at no cost.

    Every rank calls the same methods in the same order. They talk over the CPU, in a group of their own, so that
    nothing of theirs meets the training's own traffic; `patience` in seconds is how long one waits for another.
    `sharded` is True where each holds a part of the state, so that all of them read and write.
    """

    def __init__(self, rank: int = LEAD, size: int = 1, *, patience: float = 1800.0, sharded: bool = False) -> None:
        self.rank = rank
        self.size = size
        self.sharded = sharded
        self._patience = patience
        self._group: Any = None
        self._world: Any = None
        self._deciding = False
        self._twin: Ranks | None = None
        self._served: dict[str, Callable[[Any], Any]] = {}
        self.alone = False
        """True once others are gone: from then on this process agrees with itself."""
        self.watched: Callable[[str], AbstractContextManager[None]] = _unwatched
        """Around each wait for the others, with what it is: a `Watch` that has begun ends one that would be in vain."""

    @property
    def leads(self) -> bool:
        """True in the process that decides; where the state is not sharded, the only one that writes."""
        return self.rank == LEAD

    @property
    def single(self) -> bool:
        """True when this process trains alone."""
        return self.size == 1

    @property
    def is_deciding(self) -> bool:
        """True while this process, rank 0, decides for all, or does what it asks of all."""
        return self._deciding

    def agree(self, decide: Callable[[], T]) -> T:
        """What `decide` returns on rank 0, on every rank; what it raises there is raised on every rank.

        An agreement that rank 0 comes to inside of another is its own: the others wait for the outer one, and do
        what it has `everyone` do meanwhile.
        """
        if self.single or self.alone or self._deciding:
            return decide()
        if not self.leads:
            while isinstance(said := self._broadcast(None), _Errand):
                self._deciding = True
                try:
                    mine = _attempt(partial(self._served[said.name], said.given))
                finally:
                    self._deciding = False
                self._gather(mine)
            return _result(said, _Outcome())
        self._deciding = True
        try:
            outcome = _attempt(decide)
        finally:
            self._deciding = False
        return _result(self._broadcast(_portable(outcome, self.rank)), outcome)

    def serve(self, name: str, act: Callable[[Any], Any]) -> None:
        """Let rank 0 have `act` done on this rank; every rank serves the same names."""
        self._served[name] = act

    def everyone(self, name: str, given: Any) -> list[Any]:
        """While rank 0 decides: what each rank makes of `given` by what it serves as `name`, by rank.

        Outside of a decision this process is asked alone. What one raises is raised.
        """
        if not self._deciding:
            return [self._served[name](given)]
        self._broadcast(_Errand(name, given))
        outcomes = self._gather(_attempt(partial(self._served[name], given)))
        return [_result(one, _Outcome()) for one in outcomes]

    def twin(self) -> Ranks:
        """The same processes in a group of their own, for one background thread in each; all of them make it at once,
        in their main threads.
        """
        if self.single:
            return self
        if self._twin is None or self._twin._world is not dist.group.WORLD:
            self._twin = Ranks(self.rank, self.size, patience=self._patience, sharded=self.sharded)
            with self.watched(_FIRST):
                self._twin._open()
        return self._twin

    def together(self, act: Callable[[], T]) -> list[T]:
        """Run `act` on every rank; rank 0 gets what each returned, by rank, the others get nothing.

        What one raises is raised on every rank; of several, each rank raises its own, and others the first.
        """
        if self.single or self.alone:
            return [act()]
        outcome = _attempt(act)
        try:
            all_of_them = self._gather(outcome)
            first = next((one for one in all_of_them if one.failure is not None), _Outcome())
            agreed = self._broadcast(first if self.leads else None)
        except Exception as gone:
            if outcome.failure is not None:
                raise outcome.failure from gone  # why they are gone
            raise
        _result(agreed, outcome)
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

    def _gather(self, outcome: _Outcome) -> list[_Outcome]:
        """The outcome of each rank, by rank, on rank 0; nothing elsewhere."""
        outcomes: list[Any] | None = [None] * self.size if self.leads else None
        with self.watched(_TALK):
            dist.gather_object(_portable(outcome, self.rank), outcomes, dst=LEAD, group=self._open())
        return outcomes or []

    def _broadcast(self, said: Any) -> Any:
        """What rank 0 says, on every rank."""
        carried: list[Any] = [said]
        with self.watched(_TALK):
            dist.broadcast_object_list(carried, src=LEAD, group=self._open())
        return carried[0]

    def _open(self) -> Any:
        """The group of these agreements: made at the first, and anew where the training's own was."""
        if self._group is None or self._world is not dist.group.WORLD:
            self._group, self._world = self.new_group(), dist.group.WORLD
        return self._group

    def new_group(self) -> Any:
        """One more group of all ranks, over the CPU; every rank makes it.

        Until all are connected a rank that is gone closes no connection: who waits for it would do so to the end.
        """
        with self.watched(_FIRST):
            return dist.new_group(backend="gloo", timeout=timedelta(seconds=self._patience))


def _unwatched(what: str) -> AbstractContextManager[None]:
    return nullcontext()


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
