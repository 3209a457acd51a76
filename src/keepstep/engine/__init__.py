"""Torch, no transformers: what stock writers would write, recorded, staged, written; verified loading."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keepstep.engine.fast import CHECK, FastEngine
from keepstep.engine.holding import HeldFiles
from keepstep.engine.imprint import IMPRINT_NAME, Impression, Imprint, Mark, Marks, mark_of, marks_of
from keepstep.engine.loading import served
from keepstep.engine.measuring import measure, one_thread
from keepstep.engine.places import Place
from keepstep.engine.recorded import Recorded, recording
from keepstep.engine.written import Memory, Written, memory_of, noting

__all__ = [
    "CHECK", "IMPRINT_NAME", "DcpSave", "FastEngine", "HeldFiles", "Impression", "Imprint", "Mark", "Marks", "Memory",
    "Place", "Recorded", "ShardPlans", "Written", "mark_of", "marks_of", "measure", "memory_of", "noting", "one_thread",
    "recording", "recording_dcp", "served",
]  # fmt: skip

if TYPE_CHECKING:
    from keepstep.engine.dcp_saves import DcpSave, recording_dcp
    from keepstep.engine.shard_plans import ShardPlans

_OF_SHARDS = {"DcpSave": "dcp_saves", "recording_dcp": "dcp_saves", "ShardPlans": "shard_plans"}
"""Names that need torch.distributed, which not every build of torch has: imported when they are asked for."""


def __getattr__(name: str) -> Any:
    if name not in _OF_SHARDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OF_SHARDS[name]}"), name)
