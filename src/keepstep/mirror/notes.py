"""A run's notes in its mirror: late metrics and how it came about in `events/`, pins and tags in `pins.json`."""

from __future__ import annotations

import logging
from contextlib import suppress

from keepstep import layout as home
from keepstep.layout import NOT_JSON, SMALL_FILE_LIMIT
from keepstep.mirror import layout
from keepstep.mirror.mirror import Mirror
from keepstep.mirror.writer import Writer
from keepstep.repository import digest_of
from keepstep.run import Notes, Pins, Tail, late_metrics_of, parse_lines, pins_bytes, pins_from, travelling
from keepstep.stores import Store

logger = logging.getLogger("keepstep")

SEGMENT = 256 * 2**10
"""Bytes from which a part of the events is not added to any more: of a long log only the last part is sent again."""


def read_notes(mirror: Mirror) -> Notes:
    """What the run knew when it sent its notes last; nothing where it sent none. Raises MirrorUnavailable."""
    return Notes(tuple(_lines(mirror)), _pins(mirror))


def _lines(mirror: Mirror) -> list[bytes]:
    lines: list[bytes] = []
    for item in mirror.objects.list(layout.EVENTS):
        if layout.is_events(item.key):
            lines += mirror.objects.read(item.key, limit=SMALL_FILE_LIMIT).split(b"\n")
    return [line for line in lines if line.strip()]


def _pins(mirror: Mirror) -> Pins:
    try:
        return pins_from(mirror.objects.read(layout.PINS, limit=SMALL_FILE_LIMIT))
    except FileNotFoundError:
        return Pins()
    except NOT_JSON as error:
        logger.warning("%s/%s is damaged, and no pin of it is known: %s", mirror.url, layout.PINS, error)
        return Pins()


class NotesSender:
    """Keeps a mirror's notes as a run has them: an object is sent again when its bytes are others."""

    def __init__(self, writer: Writer, store: Store) -> None:
        self._writer = writer
        self._store = store
        self._tail = Tail(store, home.EVENTS)
        self._anew = writer.anew
        self._there: dict[str, str] | None = None
        self._carried: list[bytes] = []
        self._parts: list[list[bytes]] = [[]]
        self._size = self._closed = 0

    def send(self, pins: Pins | None) -> None:
        """Send what is new in the event log, and the pins where they are known. Raises MirrorOfAnother,
        MirrorUnavailable.
        """
        if self._anew != self._writer.anew:  # what was there went
            self._tail, self._there = Tail(self._store, home.EVENTS), None
            self._anew = self._writer.anew
        if self._there is None:
            self._there = self._look()
            self._begin()
        added = self._tail.read()
        if added.anew:
            self._begin()
        for lines in added.lines:
            for line in travelling(lines):
                self._add(line)
        objects = {
            layout.events_key(number): b"\n".join([*part, b""])
            for number, part in enumerate(self._parts[self._closed :], start=self._closed)
        }
        if pins is not None and (pins.held or layout.PINS in self._there):
            objects[layout.PINS] = pins_bytes(pins)
        due = {key: data for key, data in objects.items() if data and self._there.get(key) != digest_of(data)}
        if due:
            self._writer.check()
            if self._anew != self._writer.anew:
                self.send(pins)
                return
        for key, data in due.items():
            self._writer.mirror.objects.put(key, [data], len(data))
            self._there[key] = digest_of(data)
        self._closed = len(self._parts) - 1

    def _look(self) -> dict[str, str]:
        """Digests of what is there, by key. Late metrics that the run here doesn't know stay there."""
        objects = self._writer.mirror.objects
        there: dict[str, bytes] = {}
        for item in objects.list(layout.EVENTS):
            if layout.is_events(item.key):
                there[item.key] = objects.read(item.key, limit=SMALL_FILE_LIMIT)
        lines = [line for data in there.values() for line in data.split(b"\n")]
        late = [line for line in lines if b'"metrics"' in line and late_metrics_of(parse_lines([line]))]
        here = set(self._here()) if late else set[bytes]()
        carried = [line for line in self._carried if line not in late]
        self._carried = [*carried, *(line for line in late if line not in here)]
        digests = {key: digest_of(data) for key, data in there.items()}
        with suppress(FileNotFoundError):
            digests[layout.PINS] = digest_of(objects.read(layout.PINS, limit=SMALL_FILE_LIMIT))
        return digests

    def _here(self) -> list[bytes]:
        return [line for lines in Tail(self._store, home.EVENTS).read().lines for line in lines]

    def _begin(self) -> None:
        self._parts, self._size, self._closed = [[]], 0, 0
        for line in self._carried:
            self._add(line)

    def _add(self, line: bytes) -> None:
        if self._size > SEGMENT:
            self._parts.append([])
            self._size = 0
        self._parts[-1].append(line)
        self._size += len(line)
