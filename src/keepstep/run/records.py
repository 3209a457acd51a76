"""The records of a run, `.keepstep/*.json*`: what of each is lost or damaged, and how it can be rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from keepstep import layout
from keepstep.errors import KeepstepError, LayoutTooNew, RunNotFound
from keepstep.model import Checkpoint, parse_name
from keepstep.repository import Repository
from keepstep.run.events import EventLog, commit_fields, parse_lines
from keepstep.run.links import NAMES
from keepstep.run.lock import RunLock
from keepstep.run.pins import PinBoard, Pins, pins_bytes, pins_of
from keepstep.run.rebuilding import rebuild
from keepstep.run.runfile import read_run_file, run_file_bytes
from keepstep.stores import LocalStore

INTENTS = {
    layout.REWIND: "a rewind was under way: all checkpoints that are there stay",
    layout.RETURN: "a restore was under way: what is there stays, and what is aside can be restored anew",
    layout.SWAP: "a previous run was being brought back: what is there stays, and the rest can be restored anew",
}
_LITTER = (
    (layout.STAGING, "unfinished saves"),
    (layout.TRASH, "unfinished removals"),
    (layout.REPLACED, "replaced ones"),
)


@dataclass(frozen=True, slots=True)
class Damaged:
    """One record: its key, what is wrong with it, what a repair makes of it, and what is lost for good.

    `make` gives its new bytes from the log as it is then, None where it only goes; what was there is kept beside it
    where `keeps` says so. `mendable` is False for what only a person can put right.
    """

    key: str
    what: str
    repair: str
    lost: str = ""
    keeps: bool = True
    mendable: bool = True
    make: Callable[[], bytes | None] | None = None


def examine(store: LocalStore) -> tuple[str, tuple[Damaged, ...]]:
    """The id of the run in a directory, and what of its records is lost or damaged. Nothing is changed.

    Raises RunNotFound where no run and no manifest is there, LayoutTooNew.
    """
    meta = store.stamp(layout.META)
    run_id, of_run_file = _run_file(store)
    if meta is not None and meta.kind != "directory":
        what = f"is a {meta.kind}, and no directory"
        return run_id, (Damaged(layout.META, what, "move it away by hand, and repair again", mendable=False),)
    repository = Repository(store, run_id)
    checkpoints = (*repository.listing().checkpoints, *repository.aside())
    found = [*of_run_file, *_events(store, checkpoints), *_history(store), *_pins(store), *_links(store)]
    return run_id, (*found, *_intents(store), *_left_behind(store))


def _run_file(store: LocalStore) -> tuple[str, list[Damaged]]:
    try:
        return read_run_file(store).run_id, []
    except LayoutTooNew:
        raise
    except KeepstepError as error:
        missing, said = isinstance(error, RunNotFound), error.message
        found = rebuild(store, f"has {'no' if missing else 'a damaged'} {layout.RUN}")
        if found is None:
            raise
    what = "is gone" if missing else said.partition(layout.RUN)[2].strip() or "is damaged"
    repair = f"written anew from the manifests of {_count(found.checkpoints, 'checkpoint')}: run {found.file.run_id}"
    new = run_file_bytes(found.file)
    lost = ", ".join(found.lost)
    return found.file.run_id, [Damaged(layout.RUN, what, repair, lost, keeps=not missing, make=lambda: new)]


def _events(store: LocalStore, checkpoints: Sequence[Checkpoint]) -> Iterator[Damaged]:
    kind = _kind(store, layout.EVENTS)
    lines = _Lines(store, layout.EVENTS) if kind == "file" else None
    bad = lines.bad(_is_event) if lines else 0
    logged = {e.get("generation") for e in EventLog(store).read() if e["event"] == "committed"} if lines else set[Any]()
    missing = sorted((c for c in checkpoints if c.generation not in logged), key=lambda c: (c.created, c.generation))
    if not (missing or bad or kind not in ("", "file")):
        return
    whats = [_what_kind(kind)] if kind != "file" else []
    whats += [f"{bad} of {_count(lines.count, 'line')} can't be read"] if bad and lines else []
    whats += (
        [f"{_count(len(missing), 'commit')} that manifests know {_is(missing)} not in it"] if missing and lines else []
    )
    repair = ["the lines that can be read are kept"] if lines else []
    repair += [f"{_count(len(missing), 'commit')} rebuilt from manifests"] if missing else []
    lost = (
        "" if not bad and lines else "other events that were in it: removals, checks, resumes, metrics that came later"
    )
    yield Damaged(
        layout.EVENTS, "; ".join(whats), "; ".join(repair) or "begun anew", lost, keeps=kind != "",
        make=lambda: _merged(store, missing),
    )  # fmt: skip


def _merged(store: LocalStore, missing: Sequence[Checkpoint]) -> bytes:
    """The events that can be read, and commits that only manifests know, each at its time."""
    waiting = list(missing)
    lines: list[bytes] = []
    readable = EventLog(store).read() if _kind(store, layout.EVENTS) == "file" else iter(())
    for event in readable:
        moment = _moment(event.get("time"))
        while waiting and moment is not None and waiting[0].created <= moment:
            lines.append(_commit_line(waiting.pop(0)))
        lines.append(msgspec.json.encode(event) + b"\n")
    return b"".join([*lines, *map(_commit_line, waiting)])


def _commit_line(checkpoint: Checkpoint) -> bytes:
    event = {"time": checkpoint.created, "event": "committed", **commit_fields(checkpoint, []), "rebuilt": True}
    return EventLog.line(event)


def _history(store: LocalStore) -> Iterator[Damaged]:
    kind = _kind(store, layout.METRICS)
    if kind in ("", "file"):
        lines = _Lines(store, layout.METRICS) if kind else None
        if lines is None or not (bad := lines.bad(_is_object)):
            return
        what = f"{bad} of {_count(lines.count, 'line')} can't be read"
        yield Damaged(
            layout.METRICS, what, "the lines that can be read are kept", "what was logged in the others",
            make=lambda: lines.good(_is_object),
        )  # fmt: skip
    else:
        yield Damaged(layout.METRICS, _what_kind(kind), "begun anew by the next training", "curves")


def _pins(store: LocalStore) -> Iterator[Damaged]:
    kind = _kind(store, layout.PINS)
    known = pins_of(EventLog(store).read()) if _kind(store, layout.EVENTS) == "file" else Pins()
    if kind == "":
        if known == Pins() or not known.held:
            return
        what = "is gone"
    else:
        try:
            PinBoard(store).read()
        except (KeepstepError, OSError) as error:
            what = (
                _what_kind(kind) if kind != "file" else str(error).partition("\n")[0].partition(layout.PINS)[2].strip()
            )
        else:
            return
    pinned = _count(len(known.held), "checkpoint")
    repair = f"written anew from the events: {pinned} pinned, {_count(len(known.tags), 'tag')}"
    lost = "" if known.held else "pins and tags: no event names any"
    yield Damaged(layout.PINS, what, repair, lost, keeps=kind != "", make=lambda: pins_bytes(known))


def _links(store: LocalStore) -> Iterator[Damaged]:
    kind = _kind(store, layout.LINKS)
    if kind == "" or (kind == "file" and _Lines(store, layout.LINKS).whole()):
        return
    names = [name for name in NAMES if _leads_to_checkpoint(store, name)]
    repair = "written anew: " + (f"{' and '.join(names)} are links of the run's" if names else "the run has links")
    new = msgspec.json.encode({"names": sorted(names)}) + b"\n"
    yield Damaged(layout.LINKS, _what_kind(kind) if kind != "file" else "is no JSON", repair, make=lambda: new)


def _leads_to_checkpoint(store: LocalStore, name: str) -> bool:
    path = store.local_path(name)
    try:
        return parse_name(str(path.readlink())) is not None
    except OSError:
        return False


def _intents(store: LocalStore) -> Iterator[Damaged]:
    for key, what in INTENTS.items():
        kind = _kind(store, key)
        if kind == "":
            continue
        lines = _Lines(store, key) if kind == "file" else None
        numbers = lines is not None and key == layout.REWIND and _are_numbers(lines.data)
        if numbers or (lines is not None and key != layout.REWIND and lines.whole()):
            yield Damaged(key, what.partition(":")[0], "it is carried out, as by any start", keeps=False)
        else:
            yield Damaged(key, f"is damaged, and {what.partition(':')[0]}", what.partition(": ")[2])


def _are_numbers(data: bytes) -> bool:
    words = data.split()
    return len(words) == 2 and all(word.isdigit() for word in words)


def _left_behind(store: LocalStore) -> Iterator[Damaged]:
    """What any start clears."""
    for room, what in _LITTER:
        if entries := store.list(room):
            repair = "put back, as by any start" if room == layout.REPLACED else "cleared, as by any start"
            yield Damaged(room, f"{_count(len(entries), 'entry', 'entries')}: {what}", repair, keeps=False)
    owner = RunLock(store).owner()
    if store.exists(layout.OWNER) and (owner is None or not RunLock(store).in_use):
        yield Damaged(layout.OWNER, "names a process that is gone", "cleared, as by any start", keeps=False)


class _Lines:
    """The lines of a small file of JSON."""

    def __init__(self, store: LocalStore, key: str) -> None:
        self.data = b"".join(bytes(chunk) for chunk in store.chunks(key, size=2**20))
        self._lines = [line for line in self.data.split(b"\n") if line.strip()]

    @property
    def count(self) -> int:
        return len(self._lines)

    def bad(self, good: Callable[[bytes], bool]) -> int:
        """How many are not."""
        return sum(not good(line) for line in self._lines)

    def good(self, good: Callable[[bytes], bool]) -> bytes:
        """Those that are."""
        return b"".join(line + b"\n" for line in self._lines if good(line))

    def whole(self) -> bool:
        """True where all of it together is one JSON object."""
        return _is_object(self.data)


def _is_event(line: bytes) -> bool:
    return next(parse_lines([line]), None) is not None


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except layout.NOT_JSON:
        return False


def _kind(store: LocalStore, key: str) -> str:
    """What has that name; "" for nothing."""
    stamp = store.stamp(key)
    return "" if stamp is None else stamp.kind


def _what_kind(kind: str) -> str:
    return f"is a {kind}, and no file" if kind else "is gone"


def _moment(time: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(time))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _is(many: Iterable[object]) -> str:
    return "is" if len(list(many)) == 1 else "are"


def _count(number: int, what: str, plural: str = "") -> str:
    return f"{number} {what}" if number == 1 else f"{number} {plural or what + 's'}"


def mend(store: LocalStore, damaged: Iterable[Damaged], when: datetime) -> tuple[str, ...]:
    """Rebuild records, each in one step; returns the names under which what was there is kept. The lock must be held.

    Checkpoints are not touched.
    """
    kept: list[str] = []
    for record in damaged:
        if not record.mendable or (record.make is None and not record.keeps):
            continue
        before = store.stamp(record.key)
        new = record.make() if record.make is not None else None
        if record.keeps and store.exists(record.key):
            kept.append(_keep_beside(store, record.key, when, moves=new is None or _kind(store, record.key) != "file"))
        if new is not None:
            store.replace(record.key, new)
        if record.key == layout.EVENTS and new is not None and record.keeps and before and before.kind == "file":
            _append_late(store, kept[-1], before.size)
    if kept:
        store.sync_directory(layout.META)
    return tuple(kept)


def _append_late(store: LocalStore, beside: str, size: int) -> None:
    """Events that others, who need no lock for them, appended to the old log while the new one was written."""
    if late := b"".join(bytes(chunk) for chunk in store.chunks(beside, size=2**20, start=size)):
        store.append(layout.EVENTS, late, durable=True)


def _keep_beside(store: LocalStore, key: str, when: datetime, *, moves: bool) -> str:
    """Under a second name, so that at no moment there is none; what is no file, or gets no successor, is moved."""
    beside = f"{key}.damaged-{when:%Y%m%dT%H%M%S}"
    while store.exists(beside):
        beside += "-again"
    if moves:
        store.rename(key, beside)
    elif not store.link(key, beside):
        store.write(beside, b"".join(bytes(chunk) for chunk in store.chunks(key, size=2**20)))
    return beside
