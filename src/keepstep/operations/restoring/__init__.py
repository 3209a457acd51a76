"""Bringing back what lies aside: shown first, every byte verified, then done as it was shown."""

from keepstep.operations.restoring.aside import Aside, Part, lying_aside
from keepstep.operations.restoring.course import CourseBack
from keepstep.operations.restoring.errors import RestoreChanged, RestoreRefused
from keepstep.operations.restoring.restoration import Restoration, plan_restore, restore
from keepstep.operations.restoring.whole_run import RunBack

__all__ = [
    "Aside",
    "CourseBack",
    "Part",
    "Restoration",
    "RestoreChanged",
    "RestoreRefused",
    "RunBack",
    "lying_aside",
    "plan_restore",
    "restore",
]
