"""Checkpoints that others wrote, by what lies on the disk: layout, whole or torn, metrics, course. It only reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepstep.faces import handing_on

if TYPE_CHECKING:
    from keepstep.stock.contents import Contents, Verdict, examine, is_unread
    from keepstep.stock.course import Courses
    from keepstep.stock.glancing import Glance, Place, glance, named_by_newest, places_of
    from keepstep.stock.layouts import Layout, Other, is_other, other_layout
    from keepstep.stock.ranks import bytes_by_rank, writer_of
    from keepstep.stock.repository import LOADER, NOTES, UNMANAGED, StockRepository
    from keepstep.stock.settings import USUAL_METRIC, Settings, settings_of
    from keepstep.stock.structure import flaw_of
    from keepstep.stock.trainer_state import NAME as STATE_NAME
    from keepstep.stock.trainer_state import TrainerState, read_state

__all__ = [
    "LOADER",
    "NOTES",
    "STATE_NAME",
    "UNMANAGED",
    "USUAL_METRIC",
    "Contents",
    "Courses",
    "Glance",
    "Layout",
    "Other",
    "Place",
    "Settings",
    "StockRepository",
    "TrainerState",
    "Verdict",
    "bytes_by_rank",
    "examine",
    "flaw_of",
    "glance",
    "is_other",
    "is_unread",
    "named_by_newest",
    "other_layout",
    "places_of",
    "read_state",
    "settings_of",
    "writer_of",
]

_HOMES = {
    "contents": ("Contents", "Verdict", "examine", "is_unread"),
    "course": ("Courses",),
    "glancing": ("Glance", "Place", "glance", "named_by_newest", "places_of"),
    "layouts": ("Layout", "Other", "is_other", "other_layout"),
    "ranks": ("bytes_by_rank", "writer_of"),
    "repository": ("LOADER", "NOTES", "StockRepository", "UNMANAGED"),
    "settings": ("Settings", "USUAL_METRIC", "settings_of"),
    "structure": ("flaw_of",),
    "trainer_state": ("STATE_NAME", "TrainerState", "read_state"),
}
_RENAMED = {"STATE_NAME": "NAME"}
__getattr__, __dir__ = handing_on(__name__, _HOMES, _RENAMED)
