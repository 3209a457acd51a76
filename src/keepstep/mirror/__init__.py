"""A run's second home: commits in an object store or a directory; claimed, pushed, pulled, removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepstep.faces import handing_on

if TYPE_CHECKING:
    from keepstep.mirror.bucket_objects import BucketObjects, Patience, plain
    from keepstep.mirror.bucket_rules import BucketState, bucket_state
    from keepstep.mirror.cache import RecordCache
    from keepstep.mirror.directory_objects import DirectoryObjects
    from keepstep.mirror.hub_objects import HubObjects
    from keepstep.mirror.layout import CommitName, home_in
    from keepstep.mirror.mirror import Mirror, open_mirror
    from keepstep.mirror.notes import NotesSender, read_notes
    from keepstep.mirror.objects import Object, ObjectStore
    from keepstep.mirror.opening import is_address, is_mirror, open_anywhere
    from keepstep.mirror.pace import OnBytes, Pace
    from keepstep.mirror.progress import Progress
    from keepstep.mirror.pulling import check, pull
    from keepstep.mirror.pushing import push
    from keepstep.mirror.record import Record
    from keepstep.mirror.removing import Orphan, drop, orphans, settle, thin
    from keepstep.mirror.run import MirrorRun
    from keepstep.mirror.writer import Writer

__all__ = [
    "BucketObjects",
    "BucketState",
    "CommitName",
    "DirectoryObjects",
    "HubObjects",
    "Mirror",
    "MirrorRun",
    "NotesSender",
    "Object",
    "ObjectStore",
    "OnBytes",
    "Orphan",
    "Pace",
    "Patience",
    "Progress",
    "Record",
    "RecordCache",
    "Writer",
    "bucket_state",
    "check",
    "drop",
    "home_in",
    "is_address",
    "is_mirror",
    "open_anywhere",
    "open_mirror",
    "orphans",
    "plain",
    "pull",
    "push",
    "read_notes",
    "settle",
    "thin",
]

_HOMES = {
    "bucket_objects": ("BucketObjects", "Patience", "plain"),
    "bucket_rules": ("BucketState", "bucket_state"),
    "cache": ("RecordCache",),
    "directory_objects": ("DirectoryObjects",),
    "hub_objects": ("HubObjects",),
    "layout": ("CommitName", "home_in"),
    "mirror": ("Mirror", "open_mirror"),
    "notes": ("NotesSender", "read_notes"),
    "objects": ("Object", "ObjectStore"),
    "opening": ("is_address", "is_mirror", "open_anywhere"),
    "pace": ("OnBytes", "Pace"),
    "progress": ("Progress",),
    "pulling": ("check", "pull"),
    "pushing": ("push",),
    "record": ("Record",),
    "removing": ("Orphan", "drop", "orphans", "settle", "thin"),
    "run": ("MirrorRun",),
    "writer": ("Writer",),
}
__getattr__, __dir__ = handing_on(__name__, _HOMES)
