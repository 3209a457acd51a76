"""What several ranks are told, agreed between two steps: begun at the end of one, known at the end of the next."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from keepstep.errors import RankLost
from keepstep.snapshot.ranks import Ranks

_GONE = (RuntimeError, ValueError, RankLost)
"""What torch raises of a connection that is closed, and a watch in its place."""


class Vote:
    """Each rank says yes or no to some questions, once a step; what one says yes to all hear at the same step.

    A single process hears itself at once. With several it is one small message a step that nobody waits for: what comes
    of it is heard at the next turn. `broken` is True once a rank is gone: from then on each is alone.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._group: Any = None
        self._world: Any = None
        self._work: Any = None
        self._said: torch.Tensor | None = None
        self.broken = False

    def turn(self, *mine: bool) -> tuple[bool, ...]:
        """Say something now; returns what any rank had said at the turn before. Every rank calls it equally often."""
        if self._ranks.single or self.broken:
            return mine
        try:
            heard = self._hear(len(mine))
            self._said = torch.tensor(mine, dtype=torch.uint8)
            self._work = dist.all_reduce(self._said, op=dist.ReduceOp.MAX, group=self._open(), async_op=True)
        except _GONE:
            self.broken, self._work, self._said = True, None, None
            return mine
        return heard

    def end(self) -> None:
        """The last turn is over: nothing is left under way."""
        if self._work is not None:
            try:
                self._hear(0)
            except _GONE:
                self.broken = True

    def _hear(self, count: int) -> tuple[bool, ...]:
        work, said = self._work, self._said
        self._work = self._said = None
        if work is None or said is None:
            return (False,) * count
        work.wait()
        return tuple(bool(one) for one in said.tolist())

    def _open(self) -> Any:
        if self._group is None or self._world is not dist.group.WORLD:
            self._group, self._world = self._ranks.new_group(), dist.group.WORLD
        return self._group
