"""What the ranks of a sharded training left in one checkpoint: whose a file is, and which of theirs are missing.

FSDP's weights and optimizers are directories with a `.metadata`, written last, that names the files and how long each
is; DeepSpeed's names carry the rank, and nothing says how many there were but the files themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from keepstep.formats.dcp_metadata import METADATA, DcpMetadata, UnreadableMetadata, rank_of, read_metadata
from keepstep.units import format_size

_BY_RANK = (
    re.compile(r"rng_state_(\d{1,9})\.pth"),
    re.compile(r".*/(?:bf16_|fp16_)?zero_pp_rank_(\d{1,9})_mp_rank_\d+_(?:model|optim)_states\.pt"),
    re.compile(r"pytorch_model_fsdp_\d+_rank(\d{1,9})\.bin"),
)
"""Names of files that each rank writes one of, beside `__<rank>_<number>.distcp`."""


def writer_of(path: str) -> int | None:
    """The rank that wrote a file of a sharded checkpoint, by its name; None where the name does not say, as of what
    rank 0 writes for all.
    """
    if (rank := rank_of(path)) is not None:
        return rank
    found = next((found for pattern in _BY_RANK if (found := pattern.fullmatch(path))), None)
    return int(found[1]) if found else None


def bytes_by_rank(sizes: Mapping[str, int]) -> dict[int, int]:
    """Bytes that each rank wrote of a sharded checkpoint, given the sizes of its files by path; nothing for any other.

    What carries no rank is of rank 0, which writes it for all.
    """
    sharded = any(writer_of(path) is not None and not path.startswith("rng_state_") for path in sizes)
    found: dict[int, int] = {}
    for path, size in sizes.items() if sharded else ():
        rank = writer_of(path) or 0
        found[rank] = found.get(rank, 0) + size
    return dict(sorted(found.items()))


class Ranks:
    """The files of one checkpoint, as their ranks wrote them: sizes in bytes by path relative to `directory`."""

    def __init__(self, directory: Path, sizes: Mapping[str, int]) -> None:
        self._directory = directory
        self._sizes = sizes

    @cached_property
    def number(self) -> int:
        """How many ranks there were, as far as their files tell: 0 where none was written by a rank of its own."""
        ranks = {rank for path in self._sizes if (rank := writer_of(path)) is not None}
        return max(ranks, default=-1) + 1

    def flaws_of(self, home: str) -> Iterator[tuple[str, str]]:
        """What is wrong with a directory of torch's distributed checkpoints: path, and what it is. Raises OSError."""
        metadata = self._metadata(home)
        if isinstance(metadata, str):
            yield f"{home}/{METADATA}".lstrip("/"), metadata
            return
        for part, due in metadata.extents.items():
            path = f"{home}/{part}".lstrip("/")
            size, rank = self._sizes.get(path), rank_of(part)
            whose = "" if rank is None else f" (rank {rank} writes it)"
            if size is None:
                yield path, f"is missing, which its metadata names{whose}"
            elif size < due:
                yield path, f"is cut: it has {format_size(size)} of {format_size(due)}{whose}"

    def lacking_random(self) -> Iterator[tuple[str, int]]:
        """Random states that ranks lack while others have theirs: file and rank. Stock resumes without a word."""
        there = {
            rank for path in self._sizes if path.startswith("rng_state_") and (rank := writer_of(path)) is not None
        }
        for rank in range(self.number if there else 0):
            if rank not in there:
                yield f"rng_state_{rank}.pth", rank

    def lacking_states(self, tag: str) -> Iterator[tuple[str, int]]:
        """DeepSpeed's optimizer states that ranks lack while others have theirs: file and rank."""
        names = [path for path in self._sizes if path.startswith(f"{tag}/") and path.endswith("_optim_states.pt")]
        there = {rank: path for path in names if (rank := writer_of(path)) is not None}
        for rank in range(self.number if there else 0):
            if rank not in there:
                like = next(iter(there.items()))
                yield like[1].replace(f"rank_{like[0]}_mp", f"rank_{rank}_mp"), rank

    def _metadata(self, home: str) -> DcpMetadata | str:
        try:
            return read_metadata(self._directory / home)
        except UnreadableMetadata as error:
            return str(error)
