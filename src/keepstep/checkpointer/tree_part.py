"""What a training has to do with the budget of a tree of runs, where it lies in one; it never fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from keepstep.errors import KeepstepError
from keepstep.operations.tree import Lack, TreeRoom, tree_above
from keepstep.run import Run

logger = logging.getLogger("keepstep")

T = TypeVar("T")


class TreePart:
    """Finds the tree of a run, anew for each save: a budget may be set, and cleared, while it trains.

    Where the tree can't be asked, that is said once, and the training goes on by its own limits.
    """

    def __init__(self) -> None:
        self._room: TreeRoom | None = None
        self._of: tuple[Path, Run] | None = None
        self._told: set[str] = set()

    def take(self, run: Run, need: int, spare: Callable[[], int], dispose: Callable[[], None]) -> Lack | None:
        """Claim room for a save; None where it is there, or no tree has a say; see `TreeRoom.take`."""
        return self._try(run, lambda room: room.take(need, spare, dispose))

    def asked(self, run: Run) -> Lack | None:
        """What others ask the run to give up, None for nothing."""
        return self._try(run, lambda room: room.asked())

    def keep_promises(self, run: Run) -> None:
        """What was given up since `asked` is for those that asked."""
        self._try(run, lambda room: room.keep_promises())

    def release(self) -> None:
        """What was claimed is committed, or will not be."""
        if self._room is not None:
            self._room.release()

    def leave(self) -> None:
        """The session is over."""
        room, self._room, self._of = self._room, None, None
        if room is not None:
            with suppress(OSError):
                room.leave()

    def _try(self, run: Run, act: Callable[[TreeRoom], T]) -> T | None:
        try:
            room = self._find(run)
            return None if room is None else act(room)
        except (KeepstepError, OSError) as error:
            text = error.message if isinstance(error, KeepstepError) else str(error)
            if text not in self._told:
                self._told.add(text)
                logger.warning(
                    "The budget of the tree that %s lies in is not kept by this training: %s", run.path, text
                )
            return None

    def _find(self, run: Run) -> TreeRoom | None:
        root = tree_above(run.path)
        if self._of is None or self._of[0] != root or self._of[1] is not run:
            self.leave()
            if root is not None:
                self._room, self._of = TreeRoom(root, run), (root, run)
                shares = "may have its room" if run.limits.shared else "get none of its room"
                logger.info("%s takes part in the budget of %s; others %s", run.path, root, shares)
        return self._room
