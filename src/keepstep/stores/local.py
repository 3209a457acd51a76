"""A directory on this machine as a store: exclusive creation, fsync, renames that never replace."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from keepstep.stores.base import TEMPORARY_SUFFIX, Entry, EntryKind, Room, Stamp, walk_by_listing
from keepstep.stores.renaming import exchange_names, rename_without_replacing

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o666
"""What the umask leaves of it: colleagues can read. Secrets are kept out by not being written."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class LocalStore:
    """The `Store` over a local directory. Methods raise OSError as the system reports it."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._base = os.path.join(self.root, "")

    def local_path(self, path: str) -> Path:
        return self.root / path if path else self.root

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.local_path(path))

    def stamp(self, path: str) -> Stamp | None:
        try:
            found = os.lstat(self._base + path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
        return Stamp(kind, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)

    def list(self, path: str) -> list[Entry]:
        try:
            with os.scandir(self.local_path(path)) as found:
                entries = [_entry(item, item.name) for item in found]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entries, key=lambda entry: entry.path)

    def walk(self, path: str) -> list[Entry]:
        return walk_by_listing(self.list, path)

    def read(self, path: str, *, limit: int) -> bytes:
        # Without a file object: a listing of thousands of manifests takes a fifth of the time.
        descriptor, size = self._open_regular(path)
        try:
            data = _read_up_to(descriptor, size, limit + 1)
        finally:
            os.close(descriptor)
        if len(data) > limit:
            raise OSError(errno.EFBIG, f"larger than {limit} bytes", self._base + path)
        return data

    def chunks(self, path: str, *, size: int, start: int = 0) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(size))
        with os.fdopen(self._open_regular(path)[0], "rb", buffering=0) as file:
            file.seek(start)
            while count := file.readinto(buffer):
                yield buffer[:count]

    def make_directory(self, path: str, *, durable: bool = True) -> None:
        if path:
            self.make_directory(os.path.dirname(path))
        _make_directory(self.local_path(path), durable=durable)

    def write(self, path: str, data: bytes) -> None:
        _write_and_sync(os.open(self.local_path(path), _NEW_FILE, _MODE), data)

    def append(self, path: str, data: bytes, *, durable: bool) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        is_new = False
        try:
            descriptor = os.open(self.local_path(path), flags)
        except FileNotFoundError:
            descriptor = os.open(self.local_path(path), flags | os.O_CREAT, _MODE)
            is_new = True
        try:
            write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if durable and is_new:
            self.sync_directory(os.path.dirname(path))

    def replace(self, path: str, data: bytes, *, workplace: str | None = None) -> None:
        target = self.local_path(path)
        home = target.parent if workplace is None else self.local_path(workplace)
        temporary = home / f".{target.name}.{os.urandom(6).hex()}{TEMPORARY_SUFFIX}"
        descriptor = os.open(temporary, _NEW_FILE, _MODE)
        try:
            with suppress(FileNotFoundError):
                _make_like(descriptor, os.lstat(target))
            _write_and_sync(descriptor, data)
            os.replace(temporary, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        self.sync_directory(os.path.dirname(path))

    def sync_file(self, path: str) -> None:
        _sync(self._open_regular(path)[0])

    def sync_directory(self, path: str) -> None:
        _sync(os.open(self.local_path(path), _DIRECTORY))

    def rename(self, source: str, target: str) -> None:
        rename_without_replacing(self.local_path(source), self.local_path(target))

    def exchange(self, one: str, other: str) -> bool:
        return exchange_names(self.local_path(one), self.local_path(other))

    def link(self, source: str, target: str) -> bool:
        return self.link_from(self.local_path(source), target)

    def link_from(self, source: Path, target: str) -> bool:
        """As `link`, for a file that may lie outside of the store."""
        try:
            os.link(source, self.local_path(target), follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        return True

    def delete(self, path: str) -> None:
        target = self.local_path(path)
        if target.is_dir() and not target.is_symlink():
            import shutil  # it brings along every kind of compression

            shutil.rmtree(target)
        else:
            with suppress(FileNotFoundError):
                target.unlink()

    def modified(self, path: str) -> float:
        return self.local_path(path).lstat().st_mtime

    def room(self) -> Room:
        found = os.statvfs(self.root)
        entries = found.f_favail if found.f_files else None
        return Room(found.f_bavail * found.f_frsize, entries, found.f_blocks * found.f_frsize)

    def _open_regular(self, path: str) -> tuple[int, int]:
        """A descriptor of a regular file, and its size."""
        return open_regular(self._base + path)


def open_regular(path: str) -> tuple[int, int]:
    """A descriptor of a regular file, and its size. Raises OSError for anything else, a link too."""
    # O_NONBLOCK: a pipe planted in a checkpoint must not hang the reader.
    descriptor = os.open(path, _READ | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor, found.st_size


_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
"""What systems say of a hard link that a file system can't make, or not one more of."""
_KINDS: dict[int, EntryKind] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}


def _entry(item: os.DirEntry[str], path: str) -> Entry:
    kind: EntryKind = "other"
    if item.is_symlink():
        kind = "link"
    elif item.is_dir(follow_symlinks=False):
        kind = "directory"
    elif item.is_file(follow_symlinks=False):
        kind = "file"
    return Entry(path, kind, item.stat(follow_symlinks=False).st_size if kind == "file" else 0)


def _read_up_to(descriptor: int, size: int, limit: int) -> bytes:
    """The whole of a file of about that size, `limit` bytes at most."""
    piece = min(size + 1, limit)  # one more byte than there are shows the end
    data = os.read(descriptor, piece)
    if len(data) < piece:
        return data
    pieces = [data]
    left = limit - len(data)
    while left and (data := os.read(descriptor, min(left, 2**20))):
        pieces.append(data)
        left -= len(data)
    return b"".join(pieces)


def _make_like(descriptor: int, before: os.stat_result) -> None:
    """Group and mode of the file that is replaced, as far as this user may give them."""
    if os.fstat(descriptor).st_gid != before.st_gid:
        with suppress(PermissionError):
            os.fchown(descriptor, -1, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def _make_directory(target: Path, durable: bool = True) -> None:
    if target.is_dir():
        return
    _make_directory(target.parent)
    with suppress(FileExistsError):
        target.mkdir()
    if durable:
        _sync(os.open(target.parent, _DIRECTORY))


def write_all(descriptor: int, data: bytes, at: int | None = None) -> None:
    """Write all of some bytes where a file is open, or `at` an offset. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view) if at is None else os.pwrite(descriptor, view, at)
        view, at = view[written:], None if at is None else at + written


def _write_and_sync(descriptor: int, data: bytes) -> None:
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
