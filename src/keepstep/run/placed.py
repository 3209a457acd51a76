"""Where a run's files lie, as people name it: on this machine's disk, or elsewhere, from where they are brought."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from keepstep.model import Checkpoint, FileEntry
from keepstep.repository import OnBytes


class Placed:
    """A run on this machine's disk: its checkpoints have paths, and nothing need be brought."""

    path: Path
    remote = False
    """True for a mirror: nothing of it lies on this machine's disk, and it is only read."""

    @property
    def address(self) -> str:
        """How people name it: its path, or the address of what stands for it elsewhere."""
        return str(self.path)

    def place_of(self, checkpoint: Checkpoint) -> str:
        """Where the files of a checkpoint lie, as people name it."""
        return str(checkpoint.path or self.path / checkpoint.name)

    def way_here(self, checkpoint: Checkpoint) -> str:
        """The command that brings a checkpoint to this machine's disk; nothing for one that lies there."""
        return ""

    def at_hand(self, place: Callable[[], AbstractContextManager[Path]]) -> AbstractContextManager[None]:
        """While the block lasts its checkpoints have paths on this machine: those of a run on its disk always have.
        What lies elsewhere has them below a `place`, where `bring` puts files.
        """
        return nullcontext()

    def bring(self, checkpoint: Checkpoint, files: Iterable[FileEntry], on_bytes: OnBytes | None = None) -> None:
        """Have these files of a checkpoint under its path, each byte compared where it comes from elsewhere.

        Raises CheckpointCorrupt, MirrorUnavailable, StorageError.
        """
