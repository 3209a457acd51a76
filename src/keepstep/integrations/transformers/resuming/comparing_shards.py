"""The same comparison where each rank holds a part: each compares its own, and what they find is told as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from keepstep.engine import Imprint
from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.resuming.comparing import Comparison
from keepstep.integrations.transformers.resuming.found import NOTHING, compared
from keepstep.integrations.transformers.resuming.shards import layout_of, local_state
from keepstep.integrations.transformers.setup.own_code import LOADS, own
from keepstep.run import Exactness, Reason
from keepstep.snapshot.ranks import Ranks


class _Part(NamedTuple):
    """What one rank has found."""

    model: tuple[int, int]
    """Parts of tensors that are equal, and all that were compared."""
    optimizer: tuple[int, int]
    reasons: list[Reason]
    why_not: str


class ShardComparison(Comparison):
    """Compares what this rank holds with its own imprint; `share` puts together what all ranks have found."""

    def __init__(self, trainer: Any, ranks: Ranks) -> None:
        self._ranks = ranks
        super().__init__(trainer)

    def start(self, directory: Path | None) -> None:
        super().start(directory)
        self._parts: list[_Part] = []
        self._why_not = ""

    @property
    def sentence(self) -> str:
        """What was compared on all ranks, and how much of it is equal; empty where one could not, which is a reason."""
        if not self._parts or any(part.why_not for part in self._parts):
            return ""
        sums = [[sum(counts) for counts in zip(*found, strict=True)] for found in self._of_all()]
        parts = [
            f"{equal:,} of {total:,} parts of the {what}"
            for (equal, total), what in zip(sums, ("model", "optimizer's state"), strict=True)
            if total
        ]
        ranks = "1 rank" if self._ranks.single else f"{self._ranks.size} ranks"
        return f"{' and '.join(parts)} equal what was saved, on {ranks}" if parts else ""

    def _of_all(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        return [part.model for part in self._parts], [part.optimizer for part in self._parts]

    def share(self) -> None:
        """Once all is loaded, on all ranks at once: rank 0 hears what each has found."""
        found = [(one.equal, one.total) for one in (self._model, self._optimizer)]
        mine = _Part(found[0], found[1], self.reasons, self._why_not)
        self._parts = self._ranks.together(lambda: mine)
        for part in self._parts[1:]:
            self.reasons += [reason for reason in part.reasons if reason not in self.reasons]
        self.reasons += [Reason(Exactness.EXACT, text) for text in self._why_not_compared()]

    def _why_not_compared(self) -> list[str]:
        """Why the state was not, and on which rank, where not all say the same."""
        why = [part.why_not for part in self._parts]
        if len({*why}) == 1:
            return [text for text in why[:1] if text]
        return [f"rank {rank}: {text}" for rank, text in enumerate(why) if text]

    def check_model(self, directory: Path, lacking: list[str]) -> None:
        """Compare this rank's part of the model. Raises ResumeRefused where it has other values than were saved."""
        imprint = self._comparable()
        if imprint is None:
            return
        self._model = compared(imprint.model, local_state(self._trainer)[0])
        try:
            self.reasons += self._excused(imprint, self._model, set(), directory)
        except ResumeRefused as error:
            raise ResumeRefused(f"rank {self._ranks.rank}: {error.message}", hint=error.hint) from error

    def check_best(self, directory: Path, lacking: list[str]) -> str:
        """The same for the best at the end, in words; empty where all is as it was saved, or can't be compared."""
        imprint = self._read(directory)
        if imprint is None or imprint.layout != layout_of(self._trainer) or own(self._trainer, LOADS):
            return ""
        found = compared(imprint.model, local_state(self._trainer)[0])
        if not found.unequal:
            return ""
        names = ", ".join(found.unequal[:3])
        return f"rank {self._ranks.rank} has other values in its part of {len(found.unequal):,} tensors: {names}"

    @contextmanager
    def of_optimizer(self, directory: Path | None) -> Iterator[None]:
        """Around the load of the optimizer: afterwards this rank's part of its state is compared."""
        yield
        imprint = None if directory is None else self._comparable()
        self._optimizer = NOTHING if imprint is None else compared(imprint.optimizer, local_state(self._trainer)[1])

    def _comparable(self) -> Imprint | None:
        """This rank's imprint, where it is of parts that are cut as those of now."""
        if self._imprint is None:
            self._why_not = "the state was not compared: the checkpoint has no digests of what each rank held"
        elif self._imprint.layout != layout_of(self._trainer):
            self._why_not = (
                "the state was not compared: it is divided in another way than when it was saved; the files it was "
                "loaded from are verified"
            )
        else:
            return self._imprint
        return None

    def _read(self, directory: Path) -> Imprint | None:
        return Imprint.read(directory, self._ranks.rank)
