"""What a training logged, attempt by attempt: one JSON object a line, only ever appended to."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from keepstep import layout
from keepstep.log import logger
from keepstep.run.tail import Tail
from keepstep.stores import Store
from keepstep.strict import finite_or_name

Ending = Literal["finished", "stopped", "failed"]
"""How an attempt ended: by itself; at a signal, saved and to be resumed; by an error."""
MOST_WAITING = 10_000
"""Points that are kept in memory while they can't be written; later ones are dropped."""
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=2**36)]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process's part of the run, numbered from 1.

    It resumed from a checkpoint of `from_step` (None: a fresh start) and `from_generation` (None also where that
    checkpoint was none of the run's). `first_generation` is the least that it could give to a checkpoint of its own,
    `level` how exact its resume was by its settings; None where it is not known. `ended` is None while it runs, and for
    ever when it was killed.
    """

    number: int
    started: datetime
    from_step: int | None
    from_generation: int | None
    timeline: int
    max_steps: int | None = None
    ended: Ending | None = None
    first_generation: int | None = None
    level: str | None = None


class Point(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="point"):
    """What was logged at one step; `time` is in seconds since the epoch, and values may be NaN or infinite."""

    attempt: _Count
    step: _Count
    epoch: float | None
    time: _Seconds
    values: dict[str, float]


class _Begin(msgspec.Struct, frozen=True, tag_field="kind", tag="begin"):
    attempt: _Count
    started: _Moment
    from_step: _Count | None
    from_generation: _Count | None
    timeline: _Count
    max_steps: _Count | None = None
    first_generation: _Count | None = None
    level: str | None = None


class _End(msgspec.Struct, frozen=True, tag_field="kind", tag="end"):
    attempt: _Count
    ended: Ending
    time: _Seconds


@dataclass(frozen=True, slots=True)
class News:
    """Points that were added, in order; `anew`: all that was read before is void, the file is another one."""

    anew: bool
    points: list[Point]


class History:
    """Appends and reads `.keepstep/metrics.jsonl`.

    Writing never raises OSError: a log must not end a training. What can't be written waits in memory, up to
    `MOST_WAITING` points, for the next call, and one warning says so. Lines are not synced one by one: after a power
    cut the last ones may be missing, or torn, which readers pass over.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tail = Tail(store, layout.METRICS)
        self._attempts: dict[int, Attempt] = {}
        self._number = 0
        self._file: int | None = None
        self._waiting: list[bytes] = []
        self._torn = False
        self._warned = False

    # -- writing (inside the run's lock) -----------------------------------------------------------------

    def begin(
        self,
        *,
        from_step: int | None = None,
        from_generation: int | None = None,
        timeline: int = 0,
        max_steps: int | None = None,
        first_generation: int | None = None,
        level: str | None = None,
    ) -> int:
        """Begin an attempt; returns its number."""
        self._number = self._last_number() + 1
        # A process killed in the middle of a line must not spoil this one.
        self._torn = self._ends_torn()
        now = datetime.now(UTC)
        begin = _Begin(self._number, now, from_step, from_generation, timeline, max_steps, first_generation, level)
        self._write(_ENCODER.encode(begin))
        return self._number

    def log(self, step: int, epoch: float | None, values: Mapping[str, float], at: float | None = None) -> None:
        """Append the values of one step to the attempt that was begun last; `at` is when they were logged, in seconds
        since the epoch, by default now.
        """
        if len(self._waiting) < MOST_WAITING:
            line = _ENCODER.encode(Point(self._number, step, epoch, time.time() if at is None else at, dict(values)))
            if not all(map(math.isfinite, values.values())):
                # JSON has no NaN: such numbers become strings.
                named = {name: finite_or_name(value) for name, value in values.items()}
                line = _ENCODER.encode({**msgspec.json.decode(line), "values": named})
            self._write(line)
        else:
            self._flush()

    def end(self, how: Ending | None) -> None:
        """End the attempt that was begun last, and give the file back; None where it is not known how it ended."""
        if how is not None:
            self._write(_ENCODER.encode(_End(self._number, how, time.time())))
        self._waiting.clear()
        self._close()

    def _write(self, line: bytes) -> None:
        self._waiting.append(line + b"\n")
        self._flush()

    def _flush(self) -> None:
        """Write what waits, in one go; what doesn't get through goes on waiting."""
        data = b"\n" * self._torn + b"".join(self._waiting)
        done = 0
        try:
            if self._file is None:
                self._file = os.open(self._store.local_path(layout.METRICS), _APPEND, 0o666)
            while done < len(data):
                done += os.write(self._file, data[done:])
            self._waiting.clear()
            self._torn = False
        except OSError as error:
            self._close()
            whole = data[:done].rfind(b"\n") + 1
            self._torn = whole < done or (self._torn and not whole)
            if whole < done and data[done : done + 1] == b"\n":
                whole = done  # all of the line is there but its end, which is what comes first the next time
            self._waiting = data[whole:].lstrip(b"\n").splitlines(keepends=True)
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            path = self._store.local_path(layout.METRICS)
            logger.warning("Logged metrics of %s wait in memory, they can't be written: %s", path, error.strerror)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _ends_torn(self) -> bool:
        """True where the file's last line has no end; also where nobody can tell."""
        try:
            stamp = self._store.stamp(layout.METRICS)
            if stamp is None or not stamp.size:
                return False
            return bytes(next(self._store.chunks(layout.METRICS, size=1, start=stamp.size - 1), b"")) != b"\n"
        except OSError:
            return True

    def _last_number(self) -> int:
        """The highest number of an attempt in the file; only the lines that begin one are decoded."""
        last = 0
        try:
            for lines in Tail(self._store, layout.METRICS).read().lines:
                begun = _records([line for line in lines if b'"begin"' in line])
                last = max([last, *(record.attempt for record in begun if isinstance(record, _Begin))])
        except OSError as error:
            self._warn(error)
        return last

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, *, from_step: int = 0, most: int = sys.maxsize) -> News:
        """The points that were added since the last call, by any process, of `from_step` and later, the first `most`.

        Raises OSError. Torn and foreign lines are passed over.
        """
        added = self._tail.read()
        if added.anew:
            self._attempts = {}
        points: list[Point] = []
        for lines in added.lines:
            for record in _records(lines):
                if isinstance(record, Point):
                    if record.step >= from_step and len(points) < most:
                        points.append(record)
                    if record.attempt not in self._attempts:
                        self._attempts[record.attempt] = _unannounced(record)
                else:
                    self._take(record)
        return News(added.anew, points)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts by number, as of the last `read`."""
        return tuple(self._attempts[number] for number in sorted(self._attempts))

    @property
    def points(self) -> tuple[Point, ...]:
        """All points, oldest first, read anew. Raises OSError."""
        return tuple(History(self._store).read().points)

    def _take(self, record: _Begin | _End) -> None:
        if isinstance(record, _Begin):
            self._attempts[record.attempt] = Attempt(
                record.attempt,
                record.started,
                record.from_step,
                record.from_generation,
                record.timeline,
                record.max_steps,
                first_generation=record.first_generation,
                level=record.level,
            )
        elif record.attempt in self._attempts:
            self._attempts[record.attempt] = replace(self._attempts[record.attempt], ended=record.ended)


def _records(lines: list[bytes]) -> Iterator[Point | _Begin | _End]:
    """What these lines say; torn and foreign ones are passed over."""
    try:
        yield from _DECODER.decode_lines(b"\n".join(lines))
        return
    except layout.NOT_JSON:
        pass
    for line in lines:
        try:
            yield _DECODER.decode(line)
        except layout.NOT_JSON:
            continue


def _unannounced(point: Point) -> Attempt:
    """An attempt whose beginning is not in the file: it went on where its first point lies."""
    return Attempt(point.attempt, datetime.fromtimestamp(point.time, UTC), max(point.step - 1, 0), None, 0)


_ENCODER = msgspec.json.Encoder()
# Not strict: the names of the numbers that JSON lacks are read as numbers.
_DECODER = msgspec.json.Decoder(Point | _Begin | _End, strict=False)
