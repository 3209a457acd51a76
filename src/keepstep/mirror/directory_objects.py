"""A directory of this machine, or of a network file system, as a place where objects live."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from keepstep.errors import MirrorUnavailable
from keepstep.mirror.objects import Object
from keepstep.stores import TEMPORARY_SUFFIX, LocalStore, write_all

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryObjects:
    """Objects are files, durable and whole under their names: written beside them, and renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._store = LocalStore(root)

    @property
    def url(self) -> str:
        return str(self._root)

    def create(self, key: str, data: bytes) -> bool:
        with self._failing(key), self._beside(key) as temporary:
            self._store.write(temporary, data)
            try:
                self._store.rename(temporary, key)
            except FileExistsError:
                return self._holds(key, data)
            self._store.sync_directory(os.path.dirname(key))
            return True

    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        written = 0
        with self._beside(key) as temporary:
            with self._failing(key):
                descriptor = os.open(self._store.local_path(temporary), _NEW, 0o666)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for piece in pieces:
                    with self._failing(key):
                        write_all(file.fileno(), piece)
                    written += len(piece)
                with self._failing(key):
                    os.fsync(file.fileno())
            if written != size:
                raise MirrorUnavailable(f"{self.url}: {key} would have {written} bytes of {size}")
            with self._failing(key):
                os.replace(self._store.local_path(temporary), self._store.local_path(key))
                self._store.sync_directory(os.path.dirname(key))

    def read(self, key: str, *, limit: int) -> bytes:
        with self._failing(key):
            return self._store.read(key, limit=limit)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._failing(key), open(self._store.local_path(key), "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, start) if length else b""

    def list(self, directory: str) -> Iterator[Object]:
        with self._failing(directory):
            self._require_root()
            for entry in sorted(self._store.walk(directory), key=lambda entry: entry.path):
                key = f"{directory}/{entry.path}" if directory else entry.path
                if entry.kind == "file" and not entry.path.endswith(TEMPORARY_SUFFIX):
                    with suppress(FileNotFoundError):
                        yield Object(key, entry.size, self._store.modified(key))

    def delete(self, keys: Sequence[str]) -> None:
        parents: set[str] = set()
        for key in keys:
            with self._failing(key):
                self._store.delete(key)
            parents.update(map(str, Path(key).parents))
        for parent in sorted(parents - {"."}, key=len, reverse=True):
            with suppress(OSError):  # others lie there still
                self._store.local_path(parent).rmdir()

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self._store.read(key, limit=len(data)) == data
        except OSError as error:
            if error.errno == errno.EFBIG:
                return False
            raise

    def _require_root(self) -> None:
        """Raises where the directory above is not there: an unmounted disk must not pass for an empty mirror."""
        if not self._root.exists() and not self._root.parent.is_dir():
            raise FileNotFoundError(2, "no such directory", str(self._root.parent))

    @contextmanager
    def _beside(self, key: str) -> Generator[str]:
        """A name for what is being written, in the directory of the key; nothing of it is left after an error."""
        with self._failing(key):
            self._require_root()
            self._store.make_directory(os.path.dirname(key))
        temporary = f"{os.path.dirname(key)}/.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}".lstrip("/")
        try:
            yield temporary
        finally:
            with suppress(OSError):
                self._store.delete(temporary)

    @contextmanager
    def _failing(self, key: str) -> Generator[None]:
        """The system's errors as those of a mirror; that an object is missing stays what it is."""
        try:
            yield
        except MirrorUnavailable:
            raise
        except FileNotFoundError:
            if self._root.exists() or self._root.parent.is_dir():
                raise
            raise MirrorUnavailable(
                f"{self.url} can't be used: {self._root.parent} is not there",
                hint="Mount it, or make it: a mirror makes its own directory alone.",
            ) from None
        except OSError as error:
            raise MirrorUnavailable(
                f"{self.url}: {key}: {error.strerror or error}", errno=error.errno,
                hint="The run itself is untouched; what is missing in the mirror goes there with the next sync.",
            ) from error  # fmt: skip
