"""The files that DeepSpeed's ranks write into a checkpoint: where the weights are there, and whose is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from keepstep.model import Checkpoint, FileEntry
from keepstep.operations.export.errors import ExportRefused, Unreadable

ROOM = re.compile(r"global_step\d+")
"""What DeepSpeed calls its directory in a checkpoint of a Trainer."""
_OF_RANK = re.compile(r"((?:bf16_|fp16_)?zero_pp_rank_)(\d+)_mp_rank_00_(optim|model)_states\.pt")


def room_of(checkpoint: Checkpoint) -> str:
    """The directory of a checkpoint that DeepSpeed's ranks wrote weights into, whose digests are known; else empty.

    What they wrote are pickles: without digests nobody knows who wrote them. Raises ExportRefused for several.
    """
    rooms = {entry.path.partition("/")[0] for entry in checkpoint.files if "/" in entry.path and entry.digest}
    found = sorted(room for room in rooms if ROOM.fullmatch(room))
    if len(found) > 1:
        raise ExportRefused(f"step {checkpoint.step} holds {len(found)} directories of DeepSpeed: {', '.join(found)}")
    return found[0] if found else ""


def is_state(entry: FileEntry, room: str) -> bool:
    """True for a file that DeepSpeed reads to put the weights together."""
    return bool(room) and entry.path.startswith(f"{room}/") and entry.path.endswith("_states.pt")


def check_ranks(checkpoint: Checkpoint, room: str, weights: Sequence[FileEntry]) -> None:
    """Raises Unreadable, which names the file, where a rank's is missing among those of the others."""
    found = [name for entry in weights if (name := _OF_RANK.fullmatch(entry.path.rpartition("/")[2]))]
    said = checkpoint.written_by.get("world_size")
    number = max(1 + max((int(name[2]) for name in found), default=0), said if isinstance(said, int) else 0)
    for kind in ("optim", "model"):
        there = {int(name[2]): name[1] for name in found if name[3] == kind}
        lacking = sorted(set(range(number)) - there.keys()) if there or kind == "optim" else []
        if lacking:
            begin = next(iter(there.values()), "zero_pp_rank_")
            name = f"{room}/{begin}{lacking[0]}_mp_rank_00_{kind}_states.pt"
            raise Unreadable(
                f"step {checkpoint.step} is incomplete: {name} is missing, which rank {lacking[0]} of {number} wrote"
            )
