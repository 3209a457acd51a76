"""One run directory: identity, lock, events, history, pins, readers, references, limits, receipt, resume point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepstep.faces import handing_on

if TYPE_CHECKING:
    from keepstep.run.arriving import arrive
    from keepstep.run.beat import Beat, Pulse
    from keepstep.run.branching import begin_branch
    from keepstep.run.course import Course, Observer, course_line, logged_beyond
    from keepstep.run.ending import has_ended
    from keepstep.run.events import Event, EventLog, commit_fields, late_metrics_of, parse_lines
    from keepstep.run.external import HUB_NAME, external_path, open_external
    from keepstep.run.history import Attempt, Ending, History, Point
    from keepstep.run.hooks import Hook, Hooks
    from keepstep.run.limits import Limits, OnDiskFull
    from keepstep.run.lineage import Lineage
    from keepstep.run.lock import RunLock
    from keepstep.run.meaning import Resume, meant
    from keepstep.run.mirror_note import MirrorNote, MirrorNotes, read_note
    from keepstep.run.notes import Notes, travelling
    from keepstep.run.opening import holds_run, open_run
    from keepstep.run.pins import PinBoard, Pins, pins_bytes, pins_from
    from keepstep.run.readers import Readers
    from keepstep.run.rebuilding import BRANCHED, Rebuilt, policy_facts, policy_said
    from keepstep.run.receipt import (
        Brought,
        Difference,
        Evidence,
        Exactness,
        Reason,
        Receipt,
        brought_lines,
        fingerprint_differences,
        receipt_lines,
    )
    from keepstep.run.records import Damaged, examine, mend
    from keepstep.run.references import Reference, way_back
    from keepstep.run.requests import Request, Requests, Wish
    from keepstep.run.resume_point import ResumePoint
    from keepstep.run.returning import Return
    from keepstep.run.run import Run
    from keepstep.run.runfile import Origin, RunFile, holds_manifest, is_run
    from keepstep.run.swapping import finish_pending
    from keepstep.run.tail import Tail
    from keepstep.run.trash import rescue, trashed
    from keepstep.run.unmanaged import StockRun
    from keepstep.run.view import DAMAGED

__all__ = [
    "BRANCHED",
    "DAMAGED",
    "HUB_NAME",
    "Attempt",
    "Beat",
    "Brought",
    "Course",
    "Damaged",
    "Difference",
    "Ending",
    "Event",
    "EventLog",
    "Evidence",
    "Exactness",
    "History",
    "Hook",
    "Hooks",
    "Limits",
    "Lineage",
    "MirrorNote",
    "MirrorNotes",
    "Notes",
    "Observer",
    "OnDiskFull",
    "Origin",
    "PinBoard",
    "Pins",
    "Point",
    "Pulse",
    "Readers",
    "Reason",
    "Rebuilt",
    "Receipt",
    "Reference",
    "Request",
    "Requests",
    "Resume",
    "ResumePoint",
    "Return",
    "Run",
    "RunFile",
    "RunLock",
    "StockRun",
    "Tail",
    "Wish",
    "arrive",
    "begin_branch",
    "brought_lines",
    "commit_fields",
    "course_line",
    "examine",
    "external_path",
    "fingerprint_differences",
    "finish_pending",
    "has_ended",
    "holds_manifest",
    "holds_run",
    "is_run",
    "late_metrics_of",
    "logged_beyond",
    "meant",
    "mend",
    "open_external",
    "open_run",
    "parse_lines",
    "pins_bytes",
    "pins_from",
    "policy_facts",
    "policy_said",
    "read_note",
    "receipt_lines",
    "rescue",
    "trashed",
    "travelling",
    "way_back",
]

_HOMES = {
    "arriving": ("arrive",),
    "beat": ("Beat", "Pulse"),
    "branching": ("begin_branch",),
    "course": ("Course", "Observer", "course_line", "logged_beyond"),
    "ending": ("has_ended",),
    "events": ("Event", "EventLog", "commit_fields", "late_metrics_of", "parse_lines"),
    "external": ("HUB_NAME", "external_path", "open_external"),
    "history": ("Attempt", "Ending", "History", "Point"),
    "hooks": ("Hook", "Hooks"),
    "limits": ("Limits", "OnDiskFull"),
    "lineage": ("Lineage",),
    "lock": ("RunLock",),
    "meaning": ("Resume", "meant"),
    "mirror_note": ("MirrorNote", "MirrorNotes", "read_note"),
    "notes": ("Notes", "travelling"),
    "opening": ("holds_run", "open_run"),
    "pins": ("PinBoard", "Pins", "pins_bytes", "pins_from"),
    "readers": ("Readers",),
    "rebuilding": ("BRANCHED", "Rebuilt", "policy_facts", "policy_said"),
    "receipt": (
        "Brought",
        "brought_lines",
        "Difference",
        "Evidence",
        "Exactness",
        "Reason",
        "Receipt",
        "fingerprint_differences",
        "receipt_lines",
    ),
    "records": ("Damaged", "examine", "mend"),
    "references": ("Reference", "way_back"),
    "requests": ("Request", "Requests", "Wish"),
    "resume_point": ("ResumePoint",),
    "returning": ("Return",),
    "run": ("Run",),
    "runfile": ("Origin", "RunFile", "holds_manifest", "is_run"),
    "swapping": ("finish_pending",),
    "tail": ("Tail",),
    "trash": ("rescue", "trashed"),
    "unmanaged": ("StockRun",),
    "view": ("DAMAGED",),
}
__getattr__, __dir__ = handing_on(__name__, _HOMES)
