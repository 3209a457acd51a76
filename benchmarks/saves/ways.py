"""The ways to resume, by name."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.saves.methods import METHODS


class WayFacts(NamedTuple):
    """What `method` has saved is loaded; `verified` says that every byte is checked."""

    method: str
    label: str
    verified: bool


_READERS = "holdfast.formats: one pass, given the digests"
WAY_FACTS: dict[str, WayFacts] = {
    "holdfast": WayFacts("holdfast", 'holdfast: `train("auto")`, less a fresh start', True),
    "holdfast-readers": WayFacts("holdfast", _READERS, True),
    "holdfast-readers-unverified": WayFacts("holdfast", _READERS, False),
    "stock-trainer": WayFacts("stock", "HF Trainer: `train(path)`, less a fresh start", False),
    "stock": WayFacts("stock", "safetensors and `torch.load`", False),
    **{
        name: WayFacts(name, METHODS[name].label, METHODS[name].verifies)
        for name in ("dcp", "lightning", "moonclip", "orbax")
    },
}
"""In the order of the tables."""
