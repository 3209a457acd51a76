"""What each rank had to itself at a save: whether it is in the checkpoint, and whose a checkpoint's files are."""

from __future__ import annotations

import re
from pathlib import Path

from keepstep.integrations.transformers.resuming.loop_state import LoopState, state_name

_OF_RANK = re.compile(r"(?:rng_state|keepstep_state|keepstep_imprint)_(\d+)\.(?:pth|json|mpz)")


def processes_of(directory: Path) -> int:
    """How many processes a checkpoint was saved by, told by the files that each of them has; 0 when there is none.

    One that has lost a file counts, as long as another of it, or of one after it, is there.
    """
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    if "rng_state.pth" in names:
        return 1
    return max((int(found[1]) + 1 for name in names if (found := _OF_RANK.fullmatch(name))), default=0)


def not_restored(directory: Path, rank: int, loop: LoopState | None, world: int) -> list[str]:
    """Why a rank of `world` does not go on from all that it had at the save, in sentences that name it.

    Empty where another number of processes saved: then nothing is of the rank that has its number. What rank 0 tells of
    its own loop is not told once more.
    """
    if processes_of(directory) != world or world == 1:
        return []
    found: list[str] = []
    if not (directory / f"rng_state_{rank}.pth").is_file():
        found.append(f"rank {rank}: its random state is not in the checkpoint, and begins anew")
    if rank and not (directory / state_name(rank)).is_file():
        found.append(f"rank {rank}: the state of its loop is not in the checkpoint; it goes on with that of rank 0")
    elif rank and loop is not None:
        found += [f"rank {rank}: {text}" for text in loop.inexact]
        if loop.left_out:
            found.append(f"rank {rank}: not kept, so that the next log may average other values: "
                         f"{', '.join(loop.left_out)}")  # fmt: skip
    return found
