"""The curves of what a run logged: by metric and attempt, on its present course or left behind by a rewind."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import msgspec

from keepstep import layout
from keepstep.model import Checkpoint
from keepstep.operations.seeing.series import Series
from keepstep.run import Attempt, History, Run
from keepstep.strict import finite_or_name

TRAINER_STATE = "trainer_state.json"
BEFORE = 0
"""The number of the attempt that stands for what no history was written of: its points are a checkpoint's own log."""
_LARGEST_STATE = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Strand:
    """Values of one metric by step within one attempt; `total` is their number before some were picked.

    `live`: on the course that the present checkpoints lie on; what a later attempt left behind is not.
    """

    attempt: int
    timeline: int
    live: bool
    steps: tuple[int, ...]
    values: tuple[float, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Span:
    """An attempt, and the last step that it logged (None: nothing yet)."""

    attempt: Attempt
    last_step: int | None


@dataclass(frozen=True, slots=True)
class Curves:
    """All metric names that are known, by first appearance; strands of those that were asked for, by attempt.

    `first_step` and `last_step` are those of everything that was logged, None where nothing was.
    """

    names: tuple[str, ...]
    strands: Mapping[str, tuple[Strand, ...]]
    spans: tuple[Span, ...]
    max_steps: int | None
    first_step: int | None
    last_step: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for strict JSON: null for numbers that are not finite, times in ISO 8601 UTC."""
        return {
            "names": list(self.names),
            "max_steps": self.max_steps,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "curves": {name: [_plain_strand(one) for one in strands] for name, strands in self.strands.items()},
            "attempts": [_plain_span(span) for span in self.spans],
        }


def curves(
    run: Run,
    *,
    names: Iterable[str] | None = None,
    start: int | None = None,
    stop: int | None = None,
    points: int = 800,
) -> Curves:
    """What a run logged, as `CurveReader.curves` gives it, read once."""
    return CurveReader(run).curves(names=names, start=start, stop=stop, points=points)


class CurveReader:
    """The curves of one run, kept between calls: a further one reads only what was added. For several threads."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._history = History(run.store)
        self._guard = threading.Lock()
        self._logged: dict[int, dict[str, Series]] = {}
        self._names: dict[str, None] = {}
        self._before: tuple[object, dict[str, Series], Attempt | None] = (None, {}, None)

    def curves(
        self,
        *,
        names: Iterable[str] | None = None,
        start: int | None = None,
        stop: int | None = None,
        points: int = 800,
    ) -> Curves:
        """Strands of `names` (None: all) with `start <= step <= stop`, each of at most `points` values.

        A strand of more shows the least and the greatest value of every piece of it, and its ends. What was logged
        before the history begins comes from the newest checkpoint's `trainer_state.json`. Raises OSError.
        """
        with self._guard:
            self._update()
            before, attempt = self._log_before()
            attempts = ((attempt,) if attempt else ()) + self._history.attempts
            logged = {BEFORE: before, **self._logged}
            known = tuple(dict.fromkeys([*before, *self._names]))
            wanted = known if names is None else tuple(dict.fromkeys(names))
            low, high = -math.inf if start is None else start, math.inf if stop is None else stop
            cuts = _cuts(attempts)
            strands = {
                name: tuple(
                    strand
                    for one in attempts
                    if (series := logged.get(one.number, {}).get(name)) is not None
                    for strand in _strands(series, one, cuts[one.number], (low, high), points)
                )
                for name in wanted
            }
            spans = tuple(Span(one, _last_step(logged.get(one.number, {}))) for one in attempts)
            first = min((s.steps[0] for by_name in logged.values() for s in by_name.values()), default=None)
            last = max((span.last_step for span in spans if span.last_step is not None), default=None)
            most = next((one.max_steps for one in reversed(attempts) if one.max_steps), None)
            return Curves(known, strands, spans, most, first, last)

    def _update(self) -> None:
        news = self._history.read()
        if news.anew:
            self._logged, self._names = {}, {}
        number, by_name = -1, dict[str, Series]()
        for point in news.points:
            if point.attempt != number:
                number = point.attempt
                by_name = self._logged.setdefault(number, {})
            step = point.step
            for name, value in point.values.items():
                series = by_name.get(name)
                if series is None:
                    series = by_name[name] = Series()
                    self._names[name] = None
                if step >= series.last:
                    # As `add` does, without the call: it is a third of the time for a long history.
                    series.last = step
                    series.steps.append(step)
                    series.values.append(value)
                else:
                    series.add(step, value)

    def _log_before(self) -> tuple[dict[str, Series], Attempt | None]:
        """What the newest checkpoint remembers of the steps before the first attempt of the history."""
        attempts = self._history.attempts
        until = attempts[0].from_step if attempts else math.inf
        if until is None:
            return {}, None
        checkpoint = next((c for c in reversed(self._run.checkpoints) if _has_log(c)), None)
        if checkpoint is None:
            return {}, None
        read = (checkpoint.generation, until)
        if self._before[0] != read:
            self._before = (read, *_read_log(self._run, checkpoint, until))
        return self._before[1:]


def _has_log(checkpoint: Checkpoint) -> bool:
    return any(entry.path == TRAINER_STATE for entry in checkpoint.files)


class _TrainerState(msgspec.Struct):
    """What a Trainer's own state says of the past."""

    log_history: list[dict[str, Any]] = []
    max_steps: int | None = None


def _read_log(run: Run, checkpoint: Checkpoint, until: float) -> tuple[dict[str, Series], Attempt | None]:
    """The log in a checkpoint up to a step; nothing where the file is gone, or says something else."""
    try:
        data = run.store.read(f"{checkpoint.name}/{TRAINER_STATE}", limit=_LARGEST_STATE)
        # Python writes NaN and infinities into it, which no strict decoder reads.
        import json

        state = msgspec.convert(json.loads(data), _TrainerState)
    except (OSError, msgspec.ValidationError, *layout.NOT_JSON):
        return {}, None
    by_name: dict[str, Series] = {}
    for entry in state.log_history:
        step = entry.get("step")
        if not isinstance(step, int) or not 0 <= step <= min(until, 2**53):
            continue
        for name, value in entry.items():
            if name not in ("step", "epoch") and isinstance(value, (int, float)) and not isinstance(value, bool):
                by_name.setdefault(name, Series()).add(step, _as_float(value))
    if not by_name:
        return {}, None
    most = state.max_steps if state.max_steps and state.max_steps > 0 else None
    return by_name, Attempt(BEFORE, run.file.created, None, None, checkpoint.timeline, most, None)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _cuts(attempts: Sequence[Attempt]) -> dict[int, float]:
    """By number, the last step of each attempt that is live: a later one that began further back leaves the rest."""
    cuts: dict[int, float] = {}
    live = math.inf
    for attempt in reversed(attempts):
        cuts[attempt.number] = live
        live = min(live, -1 if attempt.from_step is None else attempt.from_step)
    return cuts


def _strands(
    series: Series, attempt: Attempt, cut: float, window: tuple[float, float], points: int
) -> Iterator[Strand]:
    """The live part of a series and the one that was left behind, as far as they lie in the window."""
    begin, end = series.window(*window)
    middle = min(max(series.window(-1, cut)[1], begin), end)
    for live, first, last in ((True, begin, middle), (False, middle, end)):
        if first < last:
            places = series.pick(first, last, points)
            steps, values = tuple(series.steps[i] for i in places), tuple(series.values[i] for i in places)
            yield Strand(attempt.number, attempt.timeline, live, steps, values, last - first)


def _last_step(by_name: Mapping[str, Series]) -> int | None:
    return max((series.steps[-1] for series in by_name.values()), default=None)


def _plain_strand(strand: Strand) -> dict[str, Any]:
    return {
        "attempt": strand.attempt,
        "timeline": strand.timeline,
        "live": strand.live,
        "steps": list(strand.steps),
        "values": [value if math.isfinite(value) else None for value in strand.values],
        "odd": [finite_or_name(value) for value in strand.values if not math.isfinite(value)],
        "total": strand.total,
    }


def _plain_span(span: Span) -> dict[str, Any]:
    attempt = span.attempt
    return {
        "number": attempt.number,
        "started": attempt.started.astimezone(UTC).isoformat(),
        "from_step": attempt.from_step,
        "from_generation": attempt.from_generation,
        "timeline": attempt.timeline,
        "ended": attempt.ended,
        "last_step": span.last_step,
    }
