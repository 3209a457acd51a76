"""Retention rules: each says which checkpoints it keeps, why, and how it is written in a spec."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from functools import cache, cached_property
from itertools import islice, pairwise
from operator import itemgetter
from typing import Annotated, Any, ClassVar, get_type_hints

import msgspec

from keepstep.errors import PolicyError
from keepstep.model import Checkpoint, State
from keepstep.retention.metrics import Metric

Seconds = Annotated[int, "written in a spec as a number and one of UNITS"]
UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
"""Units of a duration in a spec, in seconds, largest first."""


class Hold(IntEnum):
    """How firmly a checkpoint is kept: under pressure the lowest go first."""

    NOT = 0
    """By no rule."""
    ROOM = 1
    """Because there is room."""
    QUALITY = 2
    """For its metric alone."""
    MILESTONE = 3
    """As a milestone."""
    RECOVERY = 4
    """To go on from: it is one of the newest, or of a span of time."""
    LAW = 5
    """Whatever the rules say: pinned, in use, or the one recovery point."""


class Context(msgspec.Struct, frozen=True, dict=True):
    """What rules decide on: checkpoints by ascending generation, metric, aware time, pinned generations.

    `evaluated_later` says that the metric's values have mostly come after the saves so far.
    ValueError when a generation is out of order or stands twice, or when `now` has no time zone.
    """

    checkpoints: tuple[Checkpoint, ...]
    metric: Metric | None
    now: datetime
    pinned: frozenset[int] = frozenset()
    evaluated_later: bool = False

    def __post_init__(self) -> None:
        if self.now.tzinfo is None:
            raise ValueError(f"now must carry a time zone, got {self.now!r}")
        generations = [checkpoint.generation for checkpoint in self.checkpoints]
        if any(later <= earlier for earlier, later in pairwise(generations)):
            raise ValueError(f"checkpoints must stand in order of generation, each once; got {generations}")

    @cached_property
    def sound(self) -> tuple[Checkpoint, ...]:
        """Those of which no damage is known: what counts where one takes another one's place."""
        return tuple([checkpoint for checkpoint in self.checkpoints if not checkpoint.damage])

    @cached_property
    def ranked(self) -> tuple[Checkpoint, ...]:
        """Those that can be ranked by the metric, best first; see `rank`. None without a metric."""
        return rank(self.checkpoints, self.metric) if self.metric else ()


def rank(checkpoints: Iterable[Checkpoint], metric: Metric, *, spoiled: bool = False) -> tuple[Checkpoint, ...]:
    """Checkpoints with a value of the metric, best first; of equal ones the earlier generation first.

    NaN and missing values are left out, and so is what is quarantined or set aside by a rewind, and, unless `spoiled`,
    what is known to be damaged so far that its weights can't be loaded: it takes no place from one that can.
    """
    sign = 1.0 if metric.mode == "min" else -1.0
    ranked: list[tuple[float, int, Checkpoint]] = []
    for checkpoint in checkpoints:
        value = metric.value(checkpoint.metrics)
        counts = checkpoint.state is State.COMMITTED and (spoiled or not checkpoint.spoiled)
        if counts and value is not None and not math.isnan(value):
            ranked.append((sign * value, checkpoint.generation, checkpoint))
    return tuple(checkpoint for _, _, checkpoint in sorted(ranked, key=itemgetter(0, 1)))


class Rule(msgspec.Struct, frozen=True):
    """Base of all rules. A subclass is a whole rule: its fields are its arguments, its name is its spec word.

    Arguments are whole numbers of 1 or more; PolicyError on anything else. Fields that are bool are flags: words that
    may follow the arguments in a spec, their meanings in `flags`. `hold` is how firmly the rule keeps.
    The docstring's first line and `example` make the rule's row in the help.
    """

    example: ClassVar[str]
    needs_metric: ClassVar[bool] = False
    hold: ClassVar[Hold] = Hold.RECOVERY
    flags: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for name in self.arguments():
            value: Any = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PolicyError(
                    f"{self.word()}: {name} must be a whole number of 1 or more, not {value!r}",
                    hint=f"For example {self.example!r} ({self.meaning().rstrip('.')}).",
                )

    @classmethod
    def word(cls) -> str:
        """The word that stands for the rule in a spec."""
        return cls.__name__.lower()

    @classmethod
    def meaning(cls) -> str:
        """One sentence for people."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    @classmethod
    def arguments(cls) -> dict[str, Any]:
        """Names and types (int, Seconds) of the arguments, in the order of the spec."""
        return _arguments_of(cls)

    def spec(self) -> str:
        """The rule as text, such as `best:3`; `parse` gives the same rule back."""
        parts = [self.word()]
        for name, kind in self.arguments().items():
            value = getattr(self, name)
            parts.append(format_duration(value) if kind == Seconds else str(value))
        parts += [flag for flag in self.flags if getattr(self, flag)]
        return ":".join(parts)

    def keeps(self, context: Context) -> Mapping[int, str]:
        """Generations that the rule keeps, each with its reason."""
        raise NotImplementedError

    def held(self, context: Context) -> Hold:
        """How firmly the rule keeps what it keeps now."""
        return self.hold

    def keeps_whole(self, context: Context) -> bool:
        """False when weights alone serve as well: what is kept for nothing else is thinned."""
        return self.held(context) is not Hold.QUALITY

    def phrase(self, metric: Metric | None) -> str:
        """What the rule keeps, as a part of a sentence such as `the latest 2`."""
        raise NotImplementedError

    def missed(self) -> str:
        """What a checkpoint failed to be that the rule doesn't keep, such as `not among the latest 2`."""
        raise NotImplementedError


@cache
def _arguments_of(cls: type[Rule]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in cls.__struct_fields__ if name not in cls.flags}


def rule_classes() -> dict[str, type[Rule]]:
    """Every rule there is, by the word that stands for it in a spec."""
    return {cls.word(): cls for cls in Rule.__subclasses__()}


def format_duration(seconds: int) -> str:
    """Seconds in the largest unit that divides them: 21600 is `6h`."""
    unit = next(unit for unit, size in UNITS.items() if seconds % size == 0)
    return f"{seconds // UNITS[unit]}{unit}"


class Best(Rule, frozen=True):
    """The k best by the metric, of equal ones the earlier; the k newest as long as nothing can be ranked.

    Weights-only checkpoints compete as well. NaN is never one of the best, nor is one whose weights are damaged.
    """

    k: int
    full: bool = False
    example: ClassVar[str] = "best:3"
    needs_metric: ClassVar[bool] = True
    hold: ClassVar[Hold] = Hold.QUALITY
    flags: ClassVar[Mapping[str, str]] = {
        "full": "The same, whole: without it, what no other rule keeps is thinned to its weights."
    }

    def keeps(self, context: Context) -> Mapping[int, str]:
        metric = context.metric
        if metric is None:
            return {}
        ranked = context.ranked[: self.k]
        if not ranked:
            # A metric that never comes must not cost a run all its checkpoints but one.
            newest = context.sound[-self.k :]
            return {checkpoint.generation: f"newest {self.k}: none has {metric.name} yet" for checkpoint in newest}
        return {
            checkpoint.generation: f"best {place} of {self.k} by {metric.name} "
            f"({metric.value(checkpoint.metrics):.6g}, {metric.direction})"
            for place, checkpoint in enumerate(ranked, start=1)
        }

    def held(self, context: Context) -> Hold:
        # As long as nothing is ranked, it keeps the newest: they are what there is to go on from.
        return Hold.QUALITY if context.ranked else Hold.RECOVERY

    def keeps_whole(self, context: Context) -> bool:
        return self.full or super().keeps_whole(context)

    def phrase(self, metric: Metric | None) -> str:
        best = "the best" if self.k == 1 else f"the best {self.k}"
        if metric is None:
            return best
        return f"{best} by {metric.name} ({metric.direction})"

    def missed(self) -> str:
        return "not the best" if self.k == 1 else f"not among the best {self.k}"


class Pending(Rule, frozen=True):
    """What has no value of the metric yet, for the time given after its save: its evaluation may still come.

    NaN is a value. What is damaged is not waited for.
    """

    seconds: Seconds
    example: ClassVar[str] = "pending:6h"
    needs_metric: ClassVar[bool] = True
    hold: ClassVar[Hold] = Hold.QUALITY

    def keeps(self, context: Context) -> Mapping[int, str]:
        metric = context.metric
        if metric is None:
            return {}
        until = f"{metric.name} may still come, within {format_duration(self.seconds)} of the save"
        recent = (c for c in context.sound if (context.now - c.created).total_seconds() <= self.seconds)
        return {checkpoint.generation: until for checkpoint in recent if metric.value(checkpoint.metrics) is None}

    def keeps_whole(self, context: Context) -> bool:
        # An evaluator in another process may have it open, by its name.
        return True

    def phrase(self, metric: Metric | None) -> str:
        what = f"what has no {metric.name} yet" if metric else "what is not evaluated yet"
        return f"{what}, for {format_duration(self.seconds)}"

    def missed(self) -> str:
        return f"none came within {format_duration(self.seconds)}"


EVALUATED_LATER = Pending(UNITS["h"] * 6)
"""What is in force beside rules that rank where values mostly come after the saves, unless the policy says for how long
it waits: a training that evaluates before it saves, or not at all, is none of these."""


class Latest(Rule, frozen=True):
    """The n newest that were saved to resume from; what was saved, or thinned, as weights doesn't count.

    One that lost its optimizer to somebody else counts: who makes room so wants to keep more of them, not fewer. A
    damaged one doesn't.
    """

    n: int
    example: ClassVar[str] = "latest:2"

    def keeps(self, context: Context) -> Mapping[int, str]:
        whole = (checkpoint for checkpoint in reversed(context.sound) if checkpoint.saved_whole)
        return {
            checkpoint.generation: f"latest {place} of {self.n}"
            for place, checkpoint in enumerate(islice(whole, self.n), start=1)
        }

    def phrase(self, metric: Metric | None) -> str:
        return "the newest" if self.n == 1 else f"the latest {self.n}"

    def missed(self) -> str:
        return "not the newest" if self.n == 1 else f"not among the latest {self.n}"


class Every(Rule, frozen=True):
    """Milestones: every checkpoint whose step is a multiple of the number given."""

    steps: int
    example: ClassVar[str] = "every:1000"
    hold: ClassVar[Hold] = Hold.MILESTONE

    def keeps(self, context: Context) -> Mapping[int, str]:
        milestones = (c for c in context.checkpoints if c.step > 0 and c.step % self.steps == 0 and not c.spoiled)
        return {checkpoint.generation: f"milestone every {self.steps} steps" for checkpoint in milestones}

    def phrase(self, metric: Metric | None) -> str:
        return f"a milestone every {self.steps} steps"

    def missed(self) -> str:
        return f"no milestone of every {self.steps} steps"


class Within(Rule, frozen=True):
    """Everything created within the time given before now (units s, m, h, d, w)."""

    seconds: Seconds
    example: ClassVar[str] = "within:6h"

    def keeps(self, context: Context) -> Mapping[int, str]:
        # A creation time after now is a clock that was set back: too new to remove, not too odd to keep.
        recent = (c for c in context.sound if (context.now - c.created).total_seconds() <= self.seconds)
        return {checkpoint.generation: f"within {format_duration(self.seconds)}" for checkpoint in recent}

    def phrase(self, metric: Metric | None) -> str:
        return f"everything of the last {format_duration(self.seconds)}"

    def missed(self) -> str:
        return f"older than {format_duration(self.seconds)}"


class Hourly(Rule, frozen=True):
    """The newest of each of the last n hours (UTC) that hold a checkpoint."""

    n: int
    example: ClassVar[str] = "hourly:12"

    def keeps(self, context: Context) -> Mapping[int, str]:
        return _newest_of_each("hour %Y-%m-%d %H:00 UTC", self.n, context.sound)

    def phrase(self, metric: Metric | None) -> str:
        return f"the newest of each of the last {self.n} hours with a checkpoint"

    def missed(self) -> str:
        return f"not the newest of one of the last {self.n} hours"


class Daily(Rule, frozen=True):
    """The newest of each of the last n days (UTC) that hold a checkpoint."""

    n: int
    example: ClassVar[str] = "daily:7"

    def keeps(self, context: Context) -> Mapping[int, str]:
        return _newest_of_each("day %Y-%m-%d UTC", self.n, context.sound)

    def phrase(self, metric: Metric | None) -> str:
        return f"the newest of each of the last {self.n} days with a checkpoint"

    def missed(self) -> str:
        return f"not the newest of one of the last {self.n} days"


class Pinned(Rule, frozen=True):
    """Everything that a person pinned; always in force, whether written or not."""

    example: ClassVar[str] = "pinned"
    hold: ClassVar[Hold] = Hold.LAW

    def keeps(self, context: Context) -> Mapping[int, str]:
        return {c.generation: "pinned" for c in context.checkpoints if c.generation in context.pinned}

    def phrase(self, metric: Metric | None) -> str:
        return "everything pinned"

    def missed(self) -> str:
        return "not pinned"


class All(Rule, frozen=True):
    """Everything, as long as there is room; then the oldest that no other rule keeps go first."""

    example: ClassVar[str] = "all"
    hold: ClassVar[Hold] = Hold.ROOM

    def keeps(self, context: Context) -> Mapping[int, str]:
        return {checkpoint.generation: "everything is kept" for checkpoint in context.checkpoints}

    def phrase(self, metric: Metric | None) -> str:
        return "everything"

    def missed(self) -> str:
        return "not in this run"


def _newest_of_each(bucket: str, n: int, checkpoints: Sequence[Checkpoint]) -> dict[int, str]:
    """The newest of each of the last n buckets; `bucket` is the strftime format of a bucket's name."""
    newest: dict[str, int] = {}
    for checkpoint in reversed(checkpoints):
        newest.setdefault(checkpoint.created.astimezone(UTC).strftime(bucket), checkpoint.generation)
    return {generation: f"newest of {label}" for label, generation in list(newest.items())[:n]}
