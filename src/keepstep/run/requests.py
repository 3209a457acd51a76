"""What other processes ask of a training: a small file for each request, seen at the end of its next step."""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime
from typing import Literal

import msgspec

from keepstep import layout
from keepstep.stores import Stamp, Store

Wish = Literal["save", "stop"]
_SETTLING = 3.0
"""Seconds after a change in which the directory is listed all the same: clocks of file systems are coarse."""
_ENDING = ".json"


class Request(msgspec.Struct, frozen=True):
    """What is asked, by which process, and when (UTC)."""

    id: str
    what: Wish
    pid: int
    host: str
    asked: datetime


class Requests:
    """Reads and writes `.keepstep/requests/`; asking takes no lock, withdrawing is the training's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stamp: Stamp | None = None
        self._listed = 0.0

    def ask(self, what: Wish) -> Request:
        """Leave a request, written in one step; the training answers it in the event log. Raises OSError."""
        request = Request(uuid.uuid4().hex[:12], what, os.getpid(), os.uname().nodename, datetime.now(UTC))
        self._store.make_directory(layout.REQUESTS, durable=False)
        self._store.replace(_name(request), msgspec.json.encode(request))
        return request

    def waiting(self) -> list[Request]:
        """Requests that lie there, oldest first. Where nothing has changed since, it costs one `stat`."""
        stamp, now = self._store.stamp(layout.REQUESTS), time.monotonic()
        if stamp is None or (stamp == self._stamp and now - self._listed > _SETTLING):
            return []
        if stamp != self._stamp:
            self._stamp, self._listed = stamp, now
        names = [entry.path for entry in self._store.list(layout.REQUESTS) if entry.path.endswith(_ENDING)]
        found = [one for name in names if (one := self._read(f"{layout.REQUESTS}/{name}")) is not None]
        return sorted(found, key=lambda request: request.asked)

    def withdraw(self, request: Request) -> None:
        """Take a request away: it is being answered, or nobody will."""
        self._store.delete(_name(request))

    def _read(self, path: str) -> Request | None:
        try:
            request = msgspec.json.decode(self._store.read(path, limit=layout.SMALL_FILE_LIMIT), type=Request)
        except (OSError, *layout.NOT_JSON):
            return None
        return request if path == _name(request) else None


def _name(request: Request) -> str:
    return f"{layout.REQUESTS}/{request.id}{_ENDING}"
