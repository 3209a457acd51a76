"""How what ranks wrote compares with what each of them held when it was saved: part by part, one tensor at a time."""

from __future__ import annotations

from pathlib import Path

from keepstep.engine import Imprint, Marks, mark_of
from keepstep.formats.dcp_metadata import rank_of
from keepstep.integrations.transformers.exporting.tensors import ShardedFiles
from keepstep.integrations.transformers.setup.messages import listed

_ADAPTER = ".default."
"""What PEFT has in a name in memory, and not in a file."""


def memory_of_shards(checkpoint: Path, shards: str) -> str:
    """The comparison in words, of the weights in the directory `shards`; empty where no rank has left digests of what
    it held. Raises Unreadable, OSError.
    """
    held: dict[int, Marks] = {}
    equal = total = 0
    wrong: list[str] = []
    with ShardedFiles(checkpoint / shards) as files:
        for name in files.names:
            tensor = None
            for chunk in files.chunks(name):
                rank = rank_of(chunk.slot.file.rpartition("/")[2])
                if rank is None:
                    continue
                if rank not in held:
                    held[rank] = _marks(checkpoint, rank)
                mark = held[rank].get(name)
                if mark is None or mark.shape != chunk.sizes:
                    continue
                tensor = files.get(name) if tensor is None else tensor
                box = tuple(slice(begin, begin + size) for begin, size in zip(chunk.offsets, chunk.sizes, strict=True))
                total += 1
                if mark_of(tensor[box]) == mark:
                    equal += 1
                else:
                    wrong.append(f"{name} of rank {rank}")
    if not total:
        return ""
    said = f"{equal:,} of {total:,} parts as the ranks held them when it was saved"
    return f"{said}, not so: {listed(wrong)}" if wrong else said


def _marks(checkpoint: Path, rank: int) -> Marks:
    """What a rank held of the model, by the names of the files; nothing where it left no digests."""
    imprint = Imprint.read(checkpoint, rank)
    return {} if imprint is None else {name.replace(_ADAPTER, "."): mark for name, mark in imprint.model.items()}
