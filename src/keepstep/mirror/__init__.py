"""A run's second home: commits in an object store or a directory; claimed, pushed, pulled, removed."""

from keepstep.mirror.bucket_objects import BucketObjects, Patience
from keepstep.mirror.directory_objects import DirectoryObjects
from keepstep.mirror.hub_objects import HubObjects
from keepstep.mirror.mirror import Mirror, open_mirror
from keepstep.mirror.objects import Object, ObjectStore
from keepstep.mirror.pace import OnBytes, Pace
from keepstep.mirror.progress import Progress
from keepstep.mirror.pulling import check, pull
from keepstep.mirror.pushing import push
from keepstep.mirror.record import Record
from keepstep.mirror.removing import Orphan, drop, orphans, settle, thin
from keepstep.mirror.writer import Writer

__all__ = [
    "BucketObjects",
    "DirectoryObjects",
    "HubObjects",
    "Mirror",
    "Object",
    "ObjectStore",
    "OnBytes",
    "Orphan",
    "Pace",
    "Patience",
    "Progress",
    "Record",
    "Writer",
    "check",
    "drop",
    "open_mirror",
    "orphans",
    "pull",
    "push",
    "settle",
    "thin",
]
