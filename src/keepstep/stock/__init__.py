"""Checkpoints that others wrote, by what lies on the disk: layout, whole or torn, metrics, course. It only reads."""

from keepstep.stock.contents import Contents, Verdict, examine
from keepstep.stock.course import Courses
from keepstep.stock.layouts import Layout, Other, other_layout
from keepstep.stock.repository import LOADER, NOTES, UNMANAGED, StockRepository
from keepstep.stock.settings import Settings, settings_of
from keepstep.stock.structure import flaw_of
from keepstep.stock.trainer_state import TrainerState, read_state

__all__ = [
    "LOADER",
    "NOTES",
    "UNMANAGED",
    "Contents",
    "Courses",
    "Layout",
    "Other",
    "Settings",
    "StockRepository",
    "TrainerState",
    "Verdict",
    "examine",
    "flaw_of",
    "other_layout",
    "read_state",
    "settings_of",
]
