"""Who may read what: files as open as the directories that they lie in, and what stands in the way of a reader."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from keepstep.errors import AccessDenied, KeepstepError, ReadOnly


def open_as_directory(path: Path) -> None:
    """Let a file be read and written by those who may its directory: some libraries make files for their owner alone.

    That is how the umask has it, or the directory's default access list. No error where there is no such file.
    """
    with suppress(OSError):
        mode = stat.S_IMODE(path.lstat().st_mode)
        wanted = mode | (path.parent.stat().st_mode & 0o666)
        if wanted != mode and path.is_file() and not path.is_symlink():
            path.chmod(wanted)


def denied(
    path: str | os.PathLike[str], error: PermissionError | None = None, *, write: bool | None = None
) -> AccessDenied:
    """What stands in the way of this user, by name: which file or directory, whose, and what its owner can do.

    Whether it was to be read or written is told from what is allowed, unless `write` says so.
    """
    target = Path(os.path.abspath(path))
    if write is None:
        write = os.access(target, os.R_OK) or (os.access(target.parent, os.X_OK) and not os.path.lexists(target))
    what = f"{target} can't be {'written' if write else 'read'} by {_user(os.geteuid())}"
    barrier = _barrier(target, write=write)
    try:
        found = None if barrier is None else barrier.stat()
    except OSError:
        found = None
    if barrier is None or found is None:
        reason = error.strerror if error is not None and error.strerror else os.strerror(errno.EACCES)
        return AccessDenied(f"{what}: {reason}", path=target)
    whose = ("that directory" if barrier.is_dir() else "that file") if barrier == target else os.fspath(barrier)
    owner = _user(found.st_uid)
    rights = f"{stat.filemode(found.st_mode)} ({stat.S_IMODE(found.st_mode):04o})"
    grant = "rwX" if write else "rX"
    return AccessDenied(
        f"{what}: {whose} belongs to {owner}, group {_group(found.st_gid)}, with mode {rights}",
        hint=f"{owner} can open it to the group: chmod -R g+{grant} {shlex.quote(os.fspath(barrier))} "
        f"(o+{grant} for everybody); or be {owner}, or of the group.",
        path=target,
    )


def read_only(path: str | os.PathLike[str]) -> ReadOnly:
    """That nothing can be written there, as its file system is mounted read-only; names the mount point."""
    target = Path(os.path.abspath(path))
    mount = next(place for place in (target, *target.parents) if place.exists())
    while not os.path.ismount(mount) and _is_read_only(mount.parent):
        mount = mount.parent
    return ReadOnly(
        f"{target} can't be written: {mount} is mounted read-only",
        hint=f"Mount it for writing (mount -o remount,rw {shlex.quote(os.fspath(mount))}), or copy the run to another "
        "disk. A system mounts a disk that failed read-only by itself: dmesg says so. Looking (ls, show, verify) goes "
        "on as ever.",
        errno=errno.EROFS,
    )


def in_words(error: OSError) -> KeepstepError | None:
    """Of an error that names a file and says no more: whose the file is, or that its disk is mounted read-only."""
    if not isinstance(error.filename, (str, bytes)):
        return None
    if isinstance(error, PermissionError):
        return denied(os.fsdecode(error.filename), error)
    return read_only(os.fsdecode(error.filename)) if error.errno == errno.EROFS else None


def require_writable(directory: Path) -> None:
    """Raises ReadOnly or AccessDenied where nothing can be made in a directory that is there."""
    if _is_read_only(directory):
        raise read_only(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise denied(directory, write=True)


def _is_read_only(directory: Path) -> bool:
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def _barrier(target: Path, *, write: bool) -> Path | None:
    """The first on the way that this user may not pass, None where all of them may be passed."""
    for parent in reversed(target.parents):
        if not os.access(parent, os.X_OK):
            return parent
    if write:
        place = target if os.path.lexists(target) else target.parent
        return None if os.access(place, os.W_OK) else place
    inside = _inside(target) if target.is_dir() else []
    return next((path for path in (target, *inside) if not _may_read(path)), None)


def _inside(directory: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(directory.iterdir())
    return []


def _may_read(path: Path) -> bool:
    return os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK)


def _user(number: int) -> str:
    with suppress(KeyError, ImportError):
        import pwd

        return f"user {pwd.getpwuid(number).pw_name}"
    return f"user {number}"


def _group(number: int) -> str:
    with suppress(KeyError, ImportError):
        import grp

        return grp.getgrgid(number).gr_name
    return str(number)
