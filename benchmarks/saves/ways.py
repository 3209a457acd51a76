"""The ways to resume, by name."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.saves.methods import METHODS


class WayFacts(NamedTuple):
    """What `method` has saved is loaded; `verified` says that every byte is checked."""

    method: str
    label: str
    verified: bool


_READERS = "keepstep.formats: one pass, given the digests"
WAY_FACTS: dict[str, WayFacts] = {
    "keepstep": WayFacts("keepstep", 'keepstep: `train("auto")`, less a fresh start', True),
    "keepstep-readers": WayFacts("keepstep", _READERS, True),
    "keepstep-readers-unverified": WayFacts("keepstep", _READERS, False),
    "stock-trainer": WayFacts("stock", "HF Trainer: `train(path)`, less a fresh start", False),
    "stock": WayFacts("stock", "safetensors and `torch.load`", False),
    **{
        name: WayFacts(name, METHODS[name].label, METHODS[name].verifies)
        for name in ("dcp", "lightning", "moonclip", "orbax")
    },
}
"""In the order of the tables."""
