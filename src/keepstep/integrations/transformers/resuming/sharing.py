"""A checkpoint of several ranks is verified by all of them: each reads its share, and all know what was found."""

from __future__ import annotations

from msgspec.structs import replace

from keepstep.engine import HeldFiles
from keepstep.integrations.transformers.setup.portions import whose, writer_of
from keepstep.model import Checkpoint, FileEntry
from keepstep.repository import Findings, OnBytes, Problem, Verification, check_file, verify_files
from keepstep.snapshot.ranks import Ranks
from keepstep.stores import Store, store_at

_NAME = "verify"


class SharedCheck(HeldFiles):
    """Verifies checkpoints together with the other ranks while rank 0 decides, and holds nothing in memory.

    Each rank reads the files that it will load first, its own; what one finds counts for all.
    """

    def __init__(self, ranks: Ranks, *, reads_all: bool = False) -> None:
        """`reads_all` is True where whoever loads weights loads the rest of a checkpoint too, as DeepSpeed does."""
        super().__init__(hold=False)
        self._reads_all = reads_all
        self._ranks = ranks
        ranks.serve(_NAME, self._check_share)

    def check(self, checkpoint: Checkpoint) -> Verification:
        """Every byte of it is checked, by one of the ranks."""
        return self._shared(checkpoint, weights_alone=False)

    def check_weights(self, checkpoint: Checkpoint) -> Verification:
        """The same for what is read beside a resume."""
        return self._shared(checkpoint, weights_alone=not self._reads_all)

    def _shared(self, checkpoint: Checkpoint, *, weights_alone: bool) -> Verification:
        shares: list[Findings] = self._ranks.everyone(_NAME, (checkpoint, weights_alone))
        problems = {(one.path, one.what): one for share in shares for one in share.problems}
        told = [_told(problem) for _, problem in sorted(problems.items())]
        gone = {file.path: file for share in shares for file in share.missing}
        found = replace(shares[0], problems=tuple(told), missing=tuple(gone.values()))
        return Verification.of(checkpoint, found)

    def _check_share(self, given: tuple[Checkpoint, bool]) -> Findings:
        checkpoint, weights_alone = given
        if checkpoint.path is None:
            raise ValueError(f"{checkpoint.name} is not on disk")
        path, size = checkpoint.path, self._ranks.size if self._ranks.is_deciding else 1

        def check(store: Store, key: str, file: FileEntry, on_bytes: OnBytes | None) -> str:
            mine = size == 1 or writer_of(file.path) % size == self._ranks.rank
            return check_file(store, key, file, on_bytes) if mine else ""

        return verify_files(
            store_at(path.parent), path.name, checkpoint.files, check=check, weights_alone=weights_alone
        )


def _told(problem: Problem) -> Problem:
    who = whose([problem.path])
    return replace(problem, what=f"{problem.what}, written by {who}") if who else problem
