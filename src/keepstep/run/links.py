"""`best` and `latest` in a run's directory, on request: links for people and scripts, and nothing that is read here."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from keepstep import layout
from keepstep.log import logger
from keepstep.model import parse_name
from keepstep.stores import TEMPORARY_SUFFIX, Store, rename_without_replacing

NAMES = ("best", "latest")


class _File(msgspec.Struct):
    names: list[str] = []


class Links:
    """The links of one run. They are on while `.keepstep/links.json` is there, which says which names are ours.

    What has one of the names and is not ours is never touched. A link is relative, and made under a temporary name: at
    no moment is there half of one. What a disk refuses is said once, and nothing else comes of it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._said: set[str] = set()

    @property
    def on(self) -> bool:
        """True where the run has links."""
        return self._store.exists(layout.LINKS)

    def switch(self, on: bool) -> None:
        """Have links from now on, or remove those that there are."""
        if on == self.on:
            return
        if on:
            self._write([])
            return
        self.point(dict.fromkeys(NAMES))
        self._store.delete(layout.LINKS)

    def leads_to(self, directory: str) -> bool:
        """True where one of the links leads to the checkpoint of that name."""
        return any(self._target(name) == directory for name in NAMES)

    def point(self, wanted: Mapping[str, str | None]) -> None:
        """Let each of the names lead to a checkpoint's directory, None to nothing."""
        for name, target in wanted.items():
            try:
                self._point(name, target)
            except OSError as error:
                self._say(name, f"The link {self._path(name)} could not be made: {error.strerror or error}")

    def _point(self, name: str, target: str | None) -> None:
        ours, now = self._ours(), self._target(name)
        if name in ours and now is not None:
            if target is None:
                os.unlink(self._path(name))
            elif target != now:
                self._make(name, target, replace=True)
        elif target is not None:
            if os.path.lexists(self._path(name)):
                self._say(name, f"{self._path(name)} is not keepstep's: it stays, and no link takes its place")
                return
            if name not in ours:
                self._write([*ours, name])
            with suppress(FileExistsError):  # somebody was faster
                self._make(name, target, replace=False)

    def _make(self, name: str, target: str, *, replace: bool) -> None:
        temporary = self._store.local_path(f"{layout.META}/.{name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
        os.symlink(target, temporary)
        try:
            if replace:
                os.replace(temporary, self._path(name))
            else:
                rename_without_replacing(temporary, self._store.local_path(name))
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _target(self, name: str) -> str | None:
        """The checkpoint's name that a link leads to; None for what is no link, or leads elsewhere."""
        try:
            target = os.readlink(self._path(name))
        except OSError:
            return None
        return target if parse_name(target) else None

    def _ours(self) -> list[str]:
        try:
            return msgspec.json.decode(self._store.read(layout.LINKS, limit=layout.SMALL_FILE_LIMIT), type=_File).names
        except (FileNotFoundError, *layout.NOT_JSON):
            return []

    def _write(self, names: list[str]) -> None:
        self._store.replace(layout.LINKS, msgspec.json.encode(_File(sorted({*names}))) + b"\n")

    def _path(self, name: str) -> str:
        return os.fspath(self._store.local_path(name))

    def _say(self, name: str, text: str) -> None:
        if name not in self._said:
            self._said.add(name)
            logger.warning("%s", text)
