"""Arguments that take their new value at a resume: put into what was loaded, and what continues and what jumps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import set_seed

from keepstep.integrations.transformers.resuming.by_samples import BySamples
from keepstep.integrations.transformers.resuming.epochs import is_whole
from keepstep.integrations.transformers.resuming.in_force import (
    BY_METRIC,
    in_force,
    scheduler_is_given,
    values_of,
)
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.overrides import (
    KINDS,
    OF_BATCH,
    OF_CHANCE,
    OF_OPTIMIZER,
    OF_SCHEDULE,
    WORLD_SIZE,
)

_RECORDED = "arguments"
"""The section of a fingerprint that has the arguments."""


class Override:
    """What is to be overridden by one trainer's resumes, by `names`; `start` begins each training anew.

    `resumes` is True once a checkpoint was read: `before` has its arguments, `step` and `planned` its steps, made and
    in all. `samples` finds the place in the data; `optimizer` has what changed in its groups, by argument, and
    `rates` the learning rates of the next step: each before and after.
    """

    def __init__(self, trainer: Any, names: tuple[str, ...]) -> None:
        self.names = names
        self.trainer = trainer
        self.samples = BySamples(trainer)
        self.start()

    def start(self) -> None:
        """Begin a training, at its beginning."""
        self.samples.start()
        self.before: Mapping[str, Any] = {}
        self.step = self.planned = 0
        self.optimizer: dict[str, tuple[list[Any], list[Any]]] = {}
        self.rates: tuple[list[float], list[float]] = ([], [])
        self._sampler_seed: int | None = None
        self.resumes = False

    def read(self, directory: Any, state: Mapping[str, Any], place: Any, before: Any, processes: int) -> None:
        """Hear of the checkpoint that is resumed from: its trainer_state.json, its place in the data, its fingerprint,
        and the number of processes that saved it (0 where it is not known).
        """
        self.resumes, self.step, self.planned = True, int(state["global_step"]), int(state.get("max_steps") or 0)
        self.before = dict((before or {}).get(_RECORDED) or {})
        if processes:
            self.before[WORLD_SIZE] = processes
        saved_by = {"processes": processes, "accumulation": self.before.get("gradient_accumulation_steps")}
        asked = any(name in OF_BATCH for name in self.names)
        self.samples.read(directory, state, place, saved_by=saved_by, asked=asked)

    def batch_size(self, begun_with: int | None) -> int | None:
        """By which batch the loop begins: that of the arguments, where it is overridden."""
        args = self.trainer.args
        if not self.resumes or "per_device_train_batch_size" not in self.names or args.auto_find_batch_size:
            return begun_with
        return args.train_batch_size

    # -- optimizer and schedule ------------------------------------------------------------------------

    @contextmanager
    def of_optimizer(self) -> Iterator[None]:
        """Around the load of optimizer and scheduler: afterwards what is overridden has the value that it had before,
        as this training's script made it, group by group.
        """
        trainer = self.trainer
        if not self.resumes or not self.names or trainer.optimizer is None or trainer.lr_scheduler is None:
            yield
            return
        made = [values_of(group) for group in trainer.optimizer.param_groups]
        scheduler = trainer.lr_scheduler
        anew = self._changes_kind()
        if anew:
            scheduler.__dict__["load_state_dict"] = _take_nothing
        try:
            yield
        finally:
            scheduler.__dict__.pop("load_state_dict", None)
        groups = trainer.optimizer.param_groups
        before, rates = in_force(trainer), [_number(group["lr"]) for group in groups]
        for name in (name for name in OF_OPTIMIZER if name in self.names):
            if name != "learning_rate" or "initial_lr" in groups[0] or self.differs(name):
                for group, values in zip(groups, made, strict=True):
                    _put(group, name, values.get(name))
        now = in_force(trainer)
        changed = {name: (before[name], now[name]) for name in OF_OPTIMIZER if before.get(name) != now.get(name)}
        self.optimizer = {name: pair for name, pair in changed.items() if name in self.names and name in now}
        if anew:
            self._begin_schedule(scheduler, groups)
        if "learning_rate" in self.optimizer or self._plan_changes():
            self._reckon(scheduler, groups, made)
        self.rates = (rates, [_number(group["lr"]) for group in groups])

    def _changes_kind(self) -> bool:
        """True where a schedule by plan takes the place of one by a metric, or the other way round."""
        name = "lr_scheduler_type"
        if name not in self.names or scheduler_is_given(self.trainer) or name not in self.before:
            return False
        now, before = plain(self.trainer.args.lr_scheduler_type), self.before[name]
        return (now in BY_METRIC) != (before in BY_METRIC) or (now in BY_METRIC and now != before)

    def _begin_schedule(self, scheduler: Any, groups: list[Any]) -> None:
        """A scheduler that takes nothing of the state of another kind stands at this step all the same."""
        if hasattr(scheduler, "lr_lambdas"):
            scheduler.last_epoch = self.step
            scheduler._step_count = scheduler.last_epoch + 1
            for group, base in zip(groups, scheduler.base_lrs, strict=True):
                group.setdefault("initial_lr", base)
            scheduler.base_lrs = [_number(group["initial_lr"]) for group in groups]

    def _plan_changes(self) -> bool:
        """True where what is overridden makes another plan of the rate."""
        named = [name for name in (*OF_SCHEDULE, *OF_BATCH) if name in self.names]
        return bool(named) and not scheduler_is_given(self.trainer) and (
            any(name in OF_SCHEDULE and self.differs(name) for name in named)
            or self.samples.max_steps != self.planned
        )  # fmt: skip

    def _reckon(self, scheduler: Any, groups: list[Any], made: list[dict[str, Any]]) -> None:
        """Let the scheduler, and the next step, go by what is in force now."""
        pair = self.optimizer.get("learning_rate")
        if pair is not None:
            for part in _parts(scheduler):
                part.base_lrs = [_number(group["initial_lr"]) for group in groups]
        if hasattr(scheduler, "lr_lambdas"):
            plans = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            rates = [base * plan(scheduler.last_epoch) for base, plan in plans]
        elif pair is None:
            return
        elif "initial_lr" in groups[0]:  # another of torch's, which knows its rate by the one before
            factors = (now / before if before else 1.0 for before, now in zip(*pair, strict=True))
            rates = [_number(group["lr"]) * factor for group, factor in zip(groups, factors, strict=True)]
        else:  # by a metric: it changes the rate that there is
            rates = [values["learning_rate"] for values in made]
        for group, rate in zip(groups, rates, strict=True):
            _set(group, "lr", rate)
        if hasattr(scheduler, "_last_lr"):
            scheduler._last_lr = list(rates)

    # -- random numbers --------------------------------------------------------------------------------

    def seeds(self) -> None:
        """Called once a random state was loaded: a new seed begins its numbers here."""
        if self.resumes and "seed" in self.names and self.differs("seed"):
            set_seed(self.trainer.args.seed)

    def hear_sampler(self, sampler: Any, saved: int | None) -> None:
        """Hear which sampler this training made, and the seed that it had at the save, before that is put back."""
        named = any(name in self.names for name in OF_CHANCE)
        if self.resumes and named and sampler is not None and saved not in (None, sampler.initial_seed):
            self._sampler_seed = sampler.initial_seed

    def epoch_begins(self, sampler: Any) -> None:
        """Called before an epoch's data order is drawn: that of one which was under way at the save stays."""
        if is_whole(self.trainer.state.epoch) and self._sampler_seed is not None and sampler is not None:
            sampler.initial_seed, self._sampler_seed = self._sampler_seed, None
        self.samples.epoch_begins()

    # -- what is known ---------------------------------------------------------------------------------

    @property
    def changed(self) -> set[str]:
        """The names of what is overridden, and another than at the save."""
        found = {name for name in self.names if name in KINDS and name not in OF_OPTIMIZER and self.differs(name)}
        if self._sampler_seed is not None:
            found |= {name for name in OF_CHANCE if name in self.names}
        return found | set(self.optimizer)

    def differs(self, name: str) -> bool:
        """True where an argument is known to have been another at the save."""
        return name in self.before and self.now(name) != self.before[name]

    def now(self, name: str) -> Any:
        """The value of an argument, as a fingerprint has it."""
        value = getattr(self.trainer.args, name, None)
        return value if isinstance(value, (int, float, dict)) or value is None else plain(value)


def _put(group: dict[str, Any], name: str, value: Any) -> None:
    """Give a group of an optimizer the value of an argument, where it has one."""
    if value is None or values_of(group)[name] is None:
        return
    if name == "learning_rate":
        _set(group, "initial_lr" if "initial_lr" in group else "lr", value)
    elif name in ("adam_beta1", "adam_beta2"):
        first, *rest = group["betas"]
        group["betas"] = (value, *rest) if name == "adam_beta1" else (first, value, *rest[1:])
    else:
        _set(group, "weight_decay" if name == "weight_decay" else "eps", value)


def _set(group: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(group.get(key), torch.Tensor):
        group[key].fill_(value)
    else:
        group[key] = value


def _number(value: Any) -> float:
    return value.item() if hasattr(value, "item") else value


def _parts(scheduler: Any) -> Iterator[Any]:
    """The schedulers that count from a rate of their own: this one, or those that it is made of."""
    if hasattr(scheduler, "base_lrs"):
        yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)


def _take_nothing(_: Any) -> None:
    """In place of a scheduler's `load_state_dict`, where the state is one of another kind."""
