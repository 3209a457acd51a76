"""What a run's directory holds beside its checkpoints, as the page names it: what it is, and what frees it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from keepstep import layout
from keepstep.model import State
from keepstep.operations.usage import LEFTOVERS, Usage
from keepstep.run import Run

WRITING = "writing"


@dataclass(frozen=True, slots=True)
class Part:
    """Rooms that are freed in the same way: by an option of `keepstep prune` for checkpoints of a state, or not."""

    name: str
    rooms: tuple[str, ...]
    state: State | None = None
    option: str = ""


PARTS = (
    Part("left_over", (layout.STAGING, layout.TRASH, layout.REPLACED, LEFTOVERS)),
    Part("set_aside", (layout.TIMELINES,), State.SET_ASIDE, "--aside"),
    Part("quarantined", (layout.QUARANTINE,), State.QUARANTINED, "--quarantined"),
    Part("previous", (layout.PREVIOUS,), State.PREVIOUS, "--previous"),
)


def parts_of(run: Run, found: Usage, *, training: bool) -> list[dict[str, Any]]:
    """What `keepstep du` calls litter, in parts; sizes in bytes, and theirs is the sum of that.

    While a training runs, what lies in staging is the save in flight, and a part of its own. `command` frees a part,
    None where none does: what is left over goes with the next training or prune. `held` of its `checkpoints` are
    pinned or tagged, and stay.
    """
    sizes = {room.name: room.size_bytes for room in found.litter}
    writing = sizes.pop(_room(layout.STAGING), 0) if training else 0
    by_part = {part: sum(sizes.get(_room(room), 0) for room in part.rooms) for part in PARTS}
    lying = [
        _lying(run, part, size) if part.state else _part(part.name, size) for part, size in by_part.items() if size
    ]
    return [_part(WRITING, writing), *lying] if writing else lying


def _room(path: str) -> str:
    return PurePath(path).name


def _lying(run: Run, part: Part, size: int) -> dict[str, Any]:
    """A part that holds checkpoints; one whose manifest can't be read is none, and no prune frees it."""
    lying = [one for one in (*run.aside, *run.previous) if one.state is part.state]
    held = sum(run.holds(one) for one in lying)
    command = f"keepstep prune {shlex.quote(str(run.path))} {part.option}" if held < len(lying) else None
    return _part(part.name, size) | {"checkpoints": len(lying), "held": held, "command": command}


def _part(name: str, size: int) -> dict[str, Any]:
    return {"part": name, "size_bytes": size, "checkpoints": 0, "held": 0, "command": None}
