"""Where an export goes: staged beside it, synced, and renamed into place in one step."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from keepstep import layout
from keepstep.errors import FULL, DiskFull, SettingsError, StorageError
from keepstep.model import parse_name
from keepstep.operations.export.errors import ExportRefused
from keepstep.operations.export.marker import MARKER, read_marker
from keepstep.operations.export.workplace import workplace
from keepstep.paths import expanded
from keepstep.repository import MANIFEST_NAME
from keepstep.stores import exchange_names, rename_without_replacing, require_writable
from keepstep.units import format_size

MARGIN = 64 * 2**20
"""Bytes that stay free beside an export."""


@dataclass(frozen=True, slots=True)
class Target:
    """A directory that an export may become; `replaces` says that an earlier export is there and goes."""

    path: Path
    replaces: bool = False

    @classmethod
    def of(cls, path: Path, run: Path, *, force: bool) -> Target:
        """The directory, as far as nothing of anybody's is lost by it. Raises ExportRefused, SettingsError."""
        path = Path(os.path.realpath(expanded(path)))
        home = Path(os.path.realpath(run))
        if path == home or path in home.parents:
            raise SettingsError(f"{path} holds the run", hint="Name a new directory for the export.")
        above = (path, *path.parents)
        named = any(place.parent == home and parse_name(place.name) for place in above)
        if named or home / layout.META in above or any((place / MANIFEST_NAME).is_file() for place in above):
            raise SettingsError(f"{path} is a place of the run's own", hint="Name a new directory for the export.")
        if path.exists() and not path.is_dir():
            raise ExportRefused(f"{path} is a file", hint="Name a new directory for the export.")
        if os.path.ismount(path):
            raise ExportRefused(
                f"{path} is a mount point, and can't be replaced", hint=f"Name a directory in it: {path}/model"
            )
        if not path.exists() or not any(path.iterdir()):
            return cls(path)
        if not force:
            ours = " It is an earlier export: --force replaces it." if (path / MARKER).is_file() else ""
            raise ExportRefused(f"{path} is not empty", hint=f"Name a new directory.{ours}")
        _check_only_ours(path)
        return cls(path, replaces=True)

    @property
    def nearest(self) -> Path:
        """The directory that is there already, which it will be in."""
        return next(parent for parent in self.path.parents if parent.exists())

    @property
    def free_bytes(self) -> int:
        """What is free where it will be."""
        return shutil.disk_usage(self.nearest).free

    def check_room(self, size: int) -> None:
        """Raises ReadOnly and AccessDenied where it can't be written, DiskFull where there are not `size` bytes, and a
        margin, on the disk that it will be on.
        """
        require_writable(self.nearest)
        if (free := self.free_bytes) < size + MARGIN:
            raise DiskFull(
                f"an export to {self.path} takes {format_size(size)}, and {format_size(MARGIN)} are to stay free; "
                f"{format_size(free)} are free there: {format_size(size + MARGIN - free)} short",
                hint="Free space, or name a directory on another disk.",
                errno=errno.ENOSPC,
            )

    @contextmanager
    def staged(self) -> Generator[Path]:
        """A new directory beside the target; published at the end, or thrown away with what is in it.

        Raises StorageError.
        """
        with ExitStack() as stack:
            try:
                staging = stack.enter_context(workplace(self.path))
            except OSError as error:
                raise _storage(self.path, error) from error
            try:
                yield staging
                _sync(staging)
                self._publish(staging)
            except OSError as error:
                if isinstance(error, StorageError) or error.errno not in (*FULL, errno.EFBIG, errno.EIO):
                    raise
                raise _storage(self.path, error) from error

    def _publish(self, staging: Path) -> None:
        if self.replaces:
            _check_only_ours(self.path)
            if not exchange_names(staging, self.path):
                old = staging.with_suffix(".replaced")
                os.rename(self.path, old)
                try:
                    os.rename(staging, self.path)
                except BaseException:
                    os.rename(old, self.path)
                    raise
                shutil.rmtree(old, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                self.path.rmdir()  # it was empty; anything else is refused by the system
            rename_without_replacing(staging, self.path)
        _sync_one(self.path.parent)


def _check_only_ours(path: Path) -> None:
    """Every file must be one that an export wrote, byte for byte. Raises ExportRefused."""
    marker = read_marker(path)
    if marker is None:
        raise ExportRefused(
            f"{path} is not empty, and no export of keepstep made it",
            hint="--force replaces what keepstep exported, and nothing else. Name a new directory.",
        )
    strangers = marker.strangers(path)
    if strangers:
        raise ExportRefused(
            f"{path} holds what the export did not write: {', '.join(strangers[:5])}",
            hint="Move that away, or name a new directory.",
        )


def _storage(path: Path, error: OSError) -> StorageError:
    full = error.errno in FULL
    way_out = "Free space, or name a directory on another disk. " if full else ""
    return (DiskFull if full else StorageError)(
        f"{path} could not be written: {error.strerror or error}",
        hint=f"{way_out}Nothing is left of the attempt; the checkpoint is untouched.",
        errno=error.errno,
    )


def _sync(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in names:
            _sync_one(Path(folder, name))
        _sync_one(Path(folder))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
