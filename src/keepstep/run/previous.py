"""The previous runs of a directory as its run sees them: their checkpoints, what of them must stay, what is left."""

from __future__ import annotations

from msgspec import structs

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.model import Checkpoint, State
from keepstep.repository import PreviousRun, only_records, previous_runs
from keepstep.retention import PINNED, Before
from keepstep.run.lock import RunLock
from keepstep.run.pins import PinBoard
from keepstep.run.readers import Readers
from keepstep.stores import LocalStore


class PreviousRuns:
    """Looks below `.keepstep/previous/`; while the run's lock is held nobody else puts a run there: it is read once."""

    def __init__(self, store: LocalStore, run_id: str, lock: RunLock, pins: PinBoard) -> None:
        self._store = store
        self._run_id = run_id
        self._lock = lock
        self._pins = pins
        self._known: tuple[PreviousRun, ...] | None = None

    @property
    def runs(self) -> tuple[PreviousRun, ...]:
        """The runs that have a checkpoint left, by the names of their directories."""
        if self._known is None or not self._lock.held:
            self._known = previous_runs(self._store)
        return self._known

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints of all of them."""
        return tuple(checkpoint for run in self.runs for checkpoint in run.checkpoints)

    def held(self) -> dict[Before, str]:
        """What must not go now, and why: pinned or tagged there, being read, or of a run that a process works in."""
        return {key: why for run in self.runs for key, why in self._held(run).items()}

    def holds(self, checkpoint: Checkpoint) -> bool:
        """True for a checkpoint of a previous run that must not go now."""
        return any(
            (checkpoint.run_id, checkpoint.generation) in self._held(run)
            for run in self.runs
            if run.run_id == checkpoint.run_id
        )

    def changed(self) -> None:
        """Look anew the next time."""
        self._known = None

    def emptied_by(self, checkpoint: Checkpoint) -> str | None:
        """The key of the directory that a removed checkpoint leaves with records alone, None when there is more."""
        assert checkpoint.path is not None
        depth = layout.PREVIOUS.count("/") + 2
        home = "/".join(checkpoint.path.relative_to(self._store.local_path("")).parts[:depth])
        return home if self._store.exists(home) and only_records(self._store, home) else None

    def _held(self, run: PreviousRun) -> dict[Before, str]:
        store = LocalStore(self._store.local_path(run.home))
        if RunLock(store).in_use:
            found = dict.fromkeys((c.generation for c in run.checkpoints), "a process works in that run")
        else:
            found = Readers(store).read()
            try:
                pinned = PinBoard(store).read().held
                if run.run_id == self._run_id:  # a kill came before its pins were set aside too
                    pinned |= self._pins.read().held
            except KeepstepError:
                pinned = {c.generation for c in run.checkpoints}
            found |= dict.fromkeys(pinned, PINNED)
        return {(run.run_id, generation): why for generation, why in found.items()}


def as_previous(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint as the run sees it that is in the directory now."""
    return structs.replace(checkpoint, state=State.PREVIOUS)
