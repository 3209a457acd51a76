"""Which checkpoints lost files that a resume needs: by their names alone, without reading any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keepstep.log import logger
from keepstep.model import Checkpoint
from keepstep.repository import Repository, missing_files

MOST_LOOKED_AT = 16
"""Full checkpoints, from the newest on, of which a listing looks whether their files are there."""

Lost = Mapping[int, tuple[str, ...]]
"""Paths of files that a resume needs and that are gone, by the generation of a checkpoint that lost any."""


class Completeness:
    """Looks after the checkpoints of one run; the first loss that it finds is said, to the one who writes the run."""

    def __init__(self) -> None:
        self._said = False

    def lost(self, repository: Repository, checkpoints: Sequence[Checkpoint], known: Lost, *, say: bool) -> Lost:
        """What the newest of these checkpoints lost, down to one that has all, and what those did of which a check
        found it (`known`). They come by generation.

        Of thousands the rest counts as it was committed, until it is checked.
        """
        lost: dict[int, tuple[str, ...]] = {}
        looked, found_whole = 0, False
        for checkpoint in reversed(checkpoints):
            is_new = looked < MOST_LOOKED_AT or not found_whole
            if not (is_new or known):
                break
            if not checkpoint.resumable or not (is_new or checkpoint.generation in known):
                continue
            looked += 1
            if gone := repository.lacking(checkpoint):
                lost[checkpoint.generation] = gone
                if say and not self._said:
                    self._said = True
                    text = "%s holds weights only from now on: %s. So may others: keepstep ls"
                    logger.info(text, checkpoint.path, missing_files(gone))
            else:
                found_whole = True
        return lost
