"""An adapter: what the suite for integrations must be told of one integration, and no more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from keepstep.model import Checkpoint
from keepstep.testing.integration_course import Course


class IntegrationAdapter(ABC):
    """Trains with one integration, and reads what it saved without it."""

    @abstractmethod
    def train(self, course: Course) -> int:
        """Play a course (`integration_process.play`) in a process of its own, which may be killed, with what it prints
        in `course.log`; returns its exit code, that of rank 0 where there are several. For a command `run_process`
        does that. The suite calls it from two threads at once.
        """

    @abstractmethod
    def read_with_stock_tools(self, checkpoint: Path) -> Mapping[str, str]:
        """The weights that tools without keepstep load from a checkpoint's directory, full or weights only: their
        digests, by the names that they have in `Outcome.state`.
        """

    def file_to_damage(self, checkpoint: Checkpoint) -> str:
        """The path, relative to the checkpoint, of a file that a resume reads; the largest one unless overridden."""
        return max(checkpoint.files, key=lambda entry: entry.size).path
