"""What doctor's rules look at: plain values, gathered from a script, a YAML file, a run or a live trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keepstep.errors import QuantityError
from keepstep.operations.doctor.found import Found, Where
from keepstep.operations.doctor.settings import Argument, Given, NotKnown, Settings, Unread
from keepstep.retention import Metric, Mode, Policy
from keepstep.units import parse_duration

DEFAULT_MTBF = 24 * 3600.0
"""Seconds between two failures where nothing is said: a machine of one's own; spot nodes fail far more often."""
DEFAULT_BANDWIDTH = 10**9
"""Bytes per second that a disk writes where nothing is said."""
DEFAULT_GRACE = 30.0
"""Seconds that Kubernetes (terminationGracePeriodSeconds) and SLURM (KillWait) leave after SIGTERM."""


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of the checkpoints: file system, what is free, who else may look into it or write there.

    `readable` and `writable` are for others than owner and group, and say whether they can reach it at all. `secret` is
    where a token stands that others can read, empty where none does.
    """

    path: str
    filesystem: str = ""
    free_bytes: int | None = None
    readable: bool = False
    writable: bool = False
    exists: bool = True
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds and bytes that decide how often to save; None where nobody knows. `grace` None: no scheduler is seen."""

    step_seconds: float | None = None
    checkpoint_bytes: int | None = None
    size_missing: str = "the size of a checkpoint (--params or --checkpoint-size)"
    bandwidth: float = DEFAULT_BANDWIDTH
    mtbf: float = DEFAULT_MTBF
    mtbf_given: bool = False
    grace: float | None = None
    scheduler: str = ""
    steps: int | None = None

    @property
    def save_seconds(self) -> float:
        """Time to write one checkpoint. Raises NotKnown without its size."""
        if self.checkpoint_bytes is None:
            raise NotKnown(self.size_missing)
        return self.checkpoint_bytes / self.bandwidth

    @property
    def step(self) -> float:
        """Seconds of a step. Raises NotKnown."""
        if self.step_seconds is None:
            raise NotKnown("the time of a step (--step-time)")
        return self.step_seconds


@dataclass(frozen=True, slots=True)
class Job:
    """A job file. `grace` are the seconds that it leaves to save, None where that can't be read, and `said` how it says
    so; `limit` are those of the whole job. `restarts` is the option that starts it anew after a preemption, `unheard`
    why its signal does not reach the training, `kills` why it would end the launcher and not the training; empty where
    there is no such thing. `starts` are the files that its
    commands name; `known` is false where nothing of a job was found in it.
    """

    path: str
    scheduler: str
    grace: float | None
    said: str
    line: int = 0
    limit: float | None = None
    limit_line: int = 0
    restarts: str = ""
    restarts_line: int = 0
    starts: tuple[str, ...] = ()
    unheard: str = ""
    kills: str = ""
    known: bool = True

    def at(self, line: int) -> Where:
        """A line of it."""
        return Where(self.path, line)


@dataclass(frozen=True, slots=True)
class Model:
    """What the training does to its model: adapter settings that go nowhere, a file that can't be written back.

    `adapter` says that an adapter is trained in place of all weights. `lost_adapter` is how the adapter got lost, in
    words; empty when there is none, or it is used.
    """

    lost_adapter: str = ""
    lost_adapter_line: int = 0
    gguf: str = ""
    gguf_line: int = 0
    adapter: bool = False


@dataclass(frozen=True, slots=True)
class RunState:
    """What lies in a run directory: steps of whole checkpoints and of weights alone, and what is wrong among them.

    `quarantined` are the steps that were moved aside as damaged; `newest_quarantined` says that the last of them is
    newer than everything that is left. `torn` says, in a run that keepstep did not write, what each of the damaged
    lacks; None in one of its own. `mirror` says what is wrong with its mirror, or nothing.
    """

    whole: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    damaged: tuple[int, ...] = ()
    newest_damaged: bool = False
    quarantined: tuple[int, ...] = ()
    newest_quarantined: bool = False
    strangers: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    unranked: tuple[int, ...] = ()
    aside: int = 0
    failed: str = ""
    torn: Mapping[int, str] | None = None
    mirror: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is known of one training.

    `policy` is what an attached training will keep, None where nothing is attached or the policy can't be read;
    `keep` is its spec as it was given. `resume` holds what `train()` is given, one entry for each call that is seen.
    `places_before` are the loggers that an earlier start in this directory wrote to, `same_directory` the lines of
    earlier configs that name it, `same_elsewhere` those of other files. `job` starts the training, or is the target;
    `command` is the place of the command line that is known. `place_of` tells where a line of the target really is.
    """

    source: str
    where: Where
    settings: Settings
    attached: bool = False
    policy: Policy | None = None
    keep: Argument | None = None
    mode: Argument | None = None
    metric: Argument | None = None
    budget: Argument | None = None
    save_every: Argument | None = None
    fresh: Argument | None = None
    resume: tuple[Argument, ...] = ()
    resume_known: bool = True
    reseeds: tuple[Unread, ...] = ()
    places_before: tuple[str, ...] = ()
    checkpoints_there: tuple[int, ...] = ()
    same_directory: tuple[int, ...] = ()
    same_elsewhere: tuple[str, ...] = ()
    job: Job | None = None
    model: Model = field(default_factory=Model)
    place: Place | None = None
    pace: Pace = field(default_factory=Pace)
    run: RunState | None = None
    chosen: Metric | None = None
    unread: tuple[str, ...] = ()
    command: Where | None = None
    place_of: Callable[[Where], Where] | None = None

    # -- what rules ask again and again --------------------------------------------------------------------

    @property
    def evaluates(self) -> bool:
        """True when anything is evaluated. Raises NotKnown."""
        return self.settings.word("eval_strategy") != "no"

    @property
    def saves(self) -> bool:
        """True when anything is saved by schedule or by the clock, or was. Raises NotKnown."""
        if self.run is not None and (self.run.whole or self.run.weights):
            return True
        return self.settings.word("save_strategy") != "no" or self.clock is not None

    @property
    def ranks(self) -> bool:
        """True when the best checkpoint matters: a metric is named, or the best is to be loaded. Raises NotKnown."""
        settings = self.settings
        return bool(settings["load_best_model_at_end"] or settings["metric_for_best_model"])

    @property
    def resumes(self) -> bool:
        """True when `train()` is told to resume, or may be told so by whoever starts it. Raises NotKnown."""
        if not self.resume_known:
            raise NotKnown("what train() is told to resume from")
        return any(isinstance(given, Unread) or bool(given.value or given.unless) for given in self.resume)

    @property
    def asks_to_resume(self) -> bool:
        """True when `train()` is told to resume as far as is known. Raises NotKnown."""
        return self.resumes and any(isinstance(given, Unread) or bool(given.value) for given in self.resume)

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole training where they are given, None where the data decides. Raises NotKnown."""
        most = int(self.settings.number("max_steps"))
        return most if most > 0 else self.pace.steps

    @property
    def clock(self) -> float | None:
        """Seconds of training between two saves by the clock, attach's `save_every`; None without. Raises NotKnown."""
        given = self.value(self.save_every, "save_every")
        if given is None:
            return None
        try:
            return parse_duration(given)
        except QuantityError as error:
            raise NotKnown(f"save_every={given!r}") from error

    @property
    def interval(self) -> float | None:
        """Seconds between two saves, by steps or by the clock, whichever comes first; None where neither says it.

        Raises NotKnown.
        """
        every, clock = self.steps_between_saves, self.clock
        if every is None:
            return clock
        return every * self.pace.step if clock is None else min(every * self.pace.step, clock)

    @property
    def steps_between_saves(self) -> int | None:
        """Steps between two saves by schedule, None where that isn't counted in steps. Raises NotKnown."""
        if self.settings.word("save_strategy") != "steps":
            return None
        every = self.settings.number("save_steps")
        if 0 < every < 1:
            return None if self.total_steps is None else max(round(every * self.total_steps), 1)
        return int(every) if every >= 1 else None

    def value(self, given: Argument | None, name: str) -> Any:
        """The value of an argument of attach, None where it was not given. Raises NotKnown."""
        if isinstance(given, Unread):
            raise NotKnown(f"{name}={given.text}" + (f" (line {given.line})" if given.line else ""))
        return None if given is None else given.value

    @property
    def known_policy(self) -> Policy:
        """What an attached training keeps. Raises NotKnown."""
        if self.policy is None:
            self.value(self.keep, "keep")
            raise NotKnown("what is kept")
        return self.policy

    def locate(self, found: Found) -> Where:
        """The place of the first setting that the finding is about and that was given, else the target itself."""
        if found.where is not None:
            return self.placed(found.where)
        for name in found.about:
            given = self.settings.values.get(name)
            if isinstance(given, Given) and given.where is not None:
                return self.placed(given.where)
            if given is not None and given.line:
                return self.at(given.line)
        return self.at(0)

    def at(self, line: int) -> Where:
        """A line of the target."""
        return self.placed(replace(self.where, line=line or self.where.line))

    def placed(self, where: Where) -> Where:
        """Where a line really is: in a notebook, the cell and its line."""
        return self.place_of(where) if self.place_of is not None else where


def given_mode(facts: Facts) -> Mode | None:
    """The direction that was said for the metric, None where none was. Raises NotKnown."""
    said = facts.value(facts.mode, "mode")
    if said in ("min", "max"):
        return said
    greater = facts.settings["greater_is_better"]
    return None if greater is None else ("max" if greater else "min")


def full_name(metric: str) -> str:
    """A metric's name as the Trainer looks for it: `eval_loss` of `loss`."""
    return metric if metric.startswith("eval_") else f"eval_{metric}"


def is_trainers(settings: Settings, metric: str) -> bool:
    """True when a metric is the one that the Trainer itself goes by."""
    theirs = settings["metric_for_best_model"]
    return bool(theirs) and full_name(str(theirs)) == full_name(metric)


__all__ = [
    "DEFAULT_BANDWIDTH", "DEFAULT_GRACE", "DEFAULT_MTBF", "Facts", "Given", "Job", "Model", "Pace", "Place", "RunState",
    "full_name", "given_mode", "is_trainers",
]  # fmt: skip
