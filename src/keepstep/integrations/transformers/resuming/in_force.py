"""Which numbers of optimizer and scheduler go on after a resume: the checkpoint's, or those of the arguments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from keepstep.integrations.transformers.setup.arguments import level_of_argument, plain, stays_in_force
from keepstep.run import Difference, Exactness, Reason

InForce = Mapping[str, list[Any]]
"""For each argument whose value an optimizer keeps, the values of its groups, in their order; None where one has none.

Checkpoints of before hold each value once.
"""

_BATCH = "per_device_train_batch_size"
_OF_SCHEDULER = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio")
BY_METRIC = ("reduce_lr_on_plateau", "greedy")
"""Schedulers that have no plan: they keep their numbers, and change the rate that there is."""


def in_force(trainer: Any) -> dict[str, list[Any]]:
    """What is in force now. A learning rate is that from which the schedule counts, where it counts from one."""
    found: dict[str, list[Any]] = {}
    for group in getattr(trainer.optimizer, "param_groups", ()):
        for name, value in values_of(group).items():
            found.setdefault(name, []).append(value)
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def values_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """What one group of an optimizer has, by the argument that it comes from; None for what it has not."""
    betas = group.get("betas") or (None, None)
    values = {
        "learning_rate": group.get("initial_lr", group.get("lr")),
        "weight_decay": group.get("weight_decay"),
        "adam_beta1": betas[0], "adam_beta2": betas[1] if len(betas) > 1 else None,
        "adam_epsilon": group.get("eps"),
    }  # fmt: skip
    numbers = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    return {name: number if isinstance(number, (int, float)) else None for name, number in numbers.items()}


def reason_of_argument(difference: Difference, trainer: Any, kept: InForce) -> Reason | None:
    """What a changed argument does to a resume, in words that hold; None where it does nothing."""
    name, text = difference.name, str(difference)
    if stays_in_force(name):
        if _optimizer_is_given(trainer):
            return None  # it makes nothing of the arguments
        values = kept.get(name)
        if values and difference.now in values and difference.before not in values:
            return None
        if values and difference.before not in values:
            text = (
                f"{name} was {difference.before} in the arguments and {words_of(values)} in force, now {difference.now}"
            )
            text += ": what was in force stays, it is part of the optimizer's state"
        else:
            text += ": the checkpoint's value stays in force, it is part of the optimizer's state"
        text += f'; override=["{name}"] takes the new one'
    elif name == _BATCH and difference.before == trainer._train_batch_size // max(1, trainer.args.n_gpu):
        # transformers 4 takes it from trainer_state.json, later ones where the batch is to be found
        text += f': the Trainer goes on with the checkpoint\'s; override=["{name}"] takes the new one'
        return Reason(Exactness.EQUIVALENT, text)
    elif name in _OF_SCHEDULER:
        if scheduler_is_given(trainer):
            return None
        if name == "lr_scheduler_kwargs" and plain(trainer.args.lr_scheduler_type) in BY_METRIC:
            text += ": the checkpoint's numbers stay in force, they are part of the scheduler's state"
        else:
            text += ": what the arguments say counts from here on"
    return Reason(level_of_argument(difference), text)


def reasons_of_given(trainer: Any, kept: InForce, now: InForce, overridden: Collection[str] = ()) -> list[Reason]:
    """Where the optimizer that the script hands over had other numbers before it loaded than are `kept`.

    Those that are `overridden` are the script's.
    """
    if not kept or not _optimizer_is_given(trainer):
        return []
    return [
        Reason(
            Exactness.APPROXIMATE,
            f"{name} of the optimizer that is handed over is {words_of(now[name])}, and {words_of(values)} stays in "
            "force: it is part of the optimizer's state",
        )
        for name, values in kept.items()
        if name in now
        and name not in overridden
        and not _same(now[name], values)
        and not (name == "learning_rate" and _rate_is_lost(trainer))
    ]


def _rate_is_lost(trainer: Any) -> bool:
    """True where the rate that the training began with is not known any more: the scheduler changes it where it is."""
    if scheduler_is_given(trainer):
        return not hasattr(trainer.lr_scheduler, "base_lrs")
    return plain(trainer.args.lr_scheduler_type) in BY_METRIC


def _optimizer_is_given(trainer: Any) -> bool:
    return getattr(trainer, "_keepstep_given_optimizer", None) is not None


def scheduler_is_given(trainer: Any) -> bool:
    """True where the script handed the scheduler over: it makes nothing of the arguments."""
    return trainer.lr_scheduler is not None and not getattr(trainer, "_created_lr_scheduler", False)


def _same(now: list[Any], kept: list[Any]) -> bool:
    return now == kept if len(now) == len(kept) else _each_once(now) == _each_once(kept)


def _each_once(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(value for value in values if value is not None))


def words_of(values: list[Any], digits: int | None = None) -> str:
    """The values of groups in words, each once; to so many `digits`, where that is given."""
    shown = values if digits is None else [f"{value:.{digits}g}" for value in values]
    return " and ".join(map(str, _each_once(shown)))
