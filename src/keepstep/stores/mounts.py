"""What file system a path lies on, as the table of mounts says it."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
"""What is mounted where, on Linux (proc_pid_mountinfo(5))."""
SHARED_BY_MACHINES = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "virtiofs", "ceph", "lustre", "glusterfs", "beegfs",
    "gpfs", "orangefs", "pvfs2", "ocfs2", "gfs2", "coda", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs",
    "fuse.rclone", "fuse.gcsfuse", "fuse.juicefs", "fuse.mount-s3", "fuse.goofys", "fuse.lustre", "fuse.beegfs",
    "fuse.blobfuse", "fuse.blobfuse2",
})  # fmt: skip
"""Types of file systems that several machines write to, over a network: a lock of one may say nothing to the others."""


def file_system_of(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that a path lies on, such as `ext4` or `nfs4`; "" where nobody says."""
    place = os.path.realpath(path)
    found: tuple[int, str] = (0, "")
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        # 36 35 98:0 /root /mount/point options - type source options
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or not kinds:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= found[0]:  # of two at one place the later one lies on top
            found = (len(point), kinds[0])
    return found[1]
