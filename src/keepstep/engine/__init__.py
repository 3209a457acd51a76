"""Torch, no transformers: what stock writers would write, recorded, staged, written; verified loading."""

from keepstep.engine.fast import CHECK, FastEngine
from keepstep.engine.holding import HeldFiles
from keepstep.engine.imprint import IMPRINT_NAME, Impression, Imprint, Mark, Marks, mark_of
from keepstep.engine.loading import served
from keepstep.engine.measuring import measure, one_thread
from keepstep.engine.places import Place
from keepstep.engine.recorded import Recorded, recording
from keepstep.engine.written import Memory, Written, memory_of, noting

__all__ = [
    "CHECK", "IMPRINT_NAME", "FastEngine", "HeldFiles", "Impression", "Imprint", "Mark", "Marks", "Memory", "Place",
    "Recorded", "Written", "mark_of", "measure", "memory_of", "noting", "one_thread", "recording", "served",
]  # fmt: skip
