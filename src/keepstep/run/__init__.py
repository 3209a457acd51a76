"""One run directory: identity, lock, events, history, pins, readers, references, limits, receipt, resume point."""

from keepstep.run.course import Course, Observer, course_line, logged_beyond
from keepstep.run.ending import has_ended
from keepstep.run.events import Event, parse_lines
from keepstep.run.external import HUB_NAME, external_path, open_external
from keepstep.run.history import Attempt, Ending, History, Point
from keepstep.run.hooks import Hook, Hooks
from keepstep.run.limits import Limits, OnDiskFull
from keepstep.run.meaning import Resume, meant
from keepstep.run.pins import Pins
from keepstep.run.rebuilding import Rebuilt, policy_facts
from keepstep.run.receipt import (
    Difference,
    Evidence,
    Exactness,
    Reason,
    Receipt,
    fingerprint_differences,
    receipt_lines,
)
from keepstep.run.references import Reference
from keepstep.run.resume_point import ResumePoint
from keepstep.run.run import Run
from keepstep.run.runfile import holds_manifest, is_run
from keepstep.run.tail import Tail

__all__ = [
    "HUB_NAME",
    "Attempt",
    "Course",
    "Difference",
    "Ending",
    "Event",
    "Evidence",
    "Exactness",
    "History",
    "Hook",
    "Hooks",
    "Limits",
    "Observer",
    "OnDiskFull",
    "Pins",
    "Point",
    "Reason",
    "Rebuilt",
    "Receipt",
    "Reference",
    "Resume",
    "ResumePoint",
    "Run",
    "Tail",
    "course_line",
    "external_path",
    "fingerprint_differences",
    "has_ended",
    "holds_manifest",
    "is_run",
    "logged_beyond",
    "meant",
    "open_external",
    "parse_lines",
    "policy_facts",
    "receipt_lines",
]
