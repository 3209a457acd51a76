"""One run directory: identity, lock, events, history, pins, readers, references, limits, receipt, resume point."""

from keepstep.run.events import Event, parse_lines
from keepstep.run.external import external_path, open_external
from keepstep.run.history import Attempt, Ending, History, Point
from keepstep.run.hooks import Hook, Hooks
from keepstep.run.limits import Limits, OnDiskFull
from keepstep.run.pins import Pins
from keepstep.run.receipt import Difference, Exactness, Reason, Receipt, fingerprint_differences
from keepstep.run.references import Reference
from keepstep.run.resume_point import ResumePoint
from keepstep.run.run import Run
from keepstep.run.tail import Tail

__all__ = [
    "Attempt",
    "Difference",
    "Ending",
    "Event",
    "Exactness",
    "History",
    "Hook",
    "Hooks",
    "Limits",
    "OnDiskFull",
    "Pins",
    "Point",
    "Reason",
    "Receipt",
    "Reference",
    "ResumePoint",
    "Run",
    "Tail",
    "external_path",
    "fingerprint_differences",
    "open_external",
    "parse_lines",
]
