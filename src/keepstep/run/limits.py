"""How much a run may take, and what becomes of a save without room."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from keepstep.errors import SettingsError
from keepstep.units import parse_size

OnDiskFull = Literal["finish", "continue", "pause", "stop"]
"""What a save without room does: it is left out and the run ends with an error, or ends well all the same; the training
waits for room; the training stops.
"""


class Limits(msgspec.Struct, frozen=True):
    """How much a run may take: bytes of all its checkpoints with the one in flight, and bytes that stay free.

    All its checkpoints: those that a rewind set aside, quarantined ones and those of previous runs too. `shared` says
    that other trainings of its tree may take its room while it does not train, and ask it for room while it does.
    """

    budget: int | None = None
    min_free: int = 0
    on_disk_full: OnDiskFull = "finish"
    shared: bool = False

    @classmethod
    def of(cls, budget: str | None, min_free: str | None, on_disk_full: OnDiskFull, *, shared: bool = False) -> Limits:
        """Limits from sizes as people write them. Raises SettingsError."""
        if on_disk_full not in get_args(OnDiskFull):
            raise SettingsError(
                f"on_disk_full is {on_disk_full!r}", hint="It is 'finish' (the default), 'continue', 'pause' or 'stop'."
            )
        return cls(
            None if budget is None else parse_size(budget, "budget"),
            0 if min_free is None else parse_size(min_free, "min_free"),
            on_disk_full,
            shared,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "budget_bytes": self.budget,
            "min_free_bytes": self.min_free,
            "on_disk_full": self.on_disk_full,
            "shared": self.shared,
        }
