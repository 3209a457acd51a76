"""To which parameter each state of an optimizer belongs: stock files know them by index, and torch asks no further."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.resuming.serving import loads_whole_files
from keepstep.integrations.transformers.resuming.trained import unwrapped
from keepstep.integrations.transformers.resuming.watched import bare_optimizer, numbers_in
from keepstep.integrations.transformers.setup.messages import listed, logger

Order = Sequence[Sequence[str]]
"""Names in memory of an optimizer's parameters, group by group, in the order of their indices."""


def order_of(trainer: Any) -> list[list[str]] | None:
    """The order of a trainer's optimizer; None where a parameter is none of its model's, or states are not whole."""
    if trainer.optimizer is None or not loads_whole_files(trainer):
        return None
    names = {id(parameter): name for name, parameter in unwrapped(trainer.model).named_parameters()}
    groups = [[names.get(id(parameter), "") for parameter in g["params"]] for g in trainer.optimizer.param_groups]
    return groups if all(name for group in groups for name in group) else None


@contextmanager
def in_order(trainer: Any, saved: Order | None) -> Iterator[None]:
    """While it lasts, an optimizer that loads a state takes it by the names that it was `saved` with.

    Raises ResumeRefused where the parameters are others, or the optimizer's own way of loading takes no order.
    """
    now = order_of(trainer)
    if saved is None or now is None or now == [list(group) for group in saved]:
        yield
        return
    before, here = {name for group in saved for name in group}, {name for group in now for name in group}
    if before != here or len(saved) != len(now):
        differing = sorted(before ^ here)
        raise ResumeRefused(
            f"the saved optimizer has {len(before)} parameters in {len(saved)} groups, that of now {len(here)} in "
            f"{len(now)}" + (f"; in one of both alone: {listed(differing)}" if differing else ""),
            hint="Let the same parameters train, in the same groups; or start a new run from the weights.",
        )
    optimizer = bare_optimizer(trainer)
    taken: list[bool] = []

    def reorder(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        taken.append(True)
        return _reordered(state, saved, now)

    hook = optimizer.register_load_state_dict_pre_hook(reorder)
    try:
        yield
    finally:
        hook.remove()
    if not taken:
        raise ResumeRefused(
            f"the parameters of {type(optimizer).__name__} are in another order than at the save, and it takes their "
            "state by that order alone",
            hint="Build the model, and the groups of its optimizer, in the order in which they were.",
        )
    _reorder_rates(trainer, _origins(saved, now))
    logger.info("the optimizer's parameters are in another order than at the save: their state was taken by name")


def as_now(trainer: Any, saved: Order | None, values: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Values of the groups that were `saved`, in the order of those of now; as they are where that is not known."""
    now = order_of(trainer)
    if saved is None or now is None or len(saved) != len(now):
        return dict(values)
    origins = _origins(saved, now)
    return {name: [v[n] for n in origins] if len(v) == len(origins) else v for name, v in values.items()}


def regrouped(trainer: Any, saved: Order | None) -> list[str]:
    """Names of parameters that are in another group than at the save, and have the settings of that by now."""
    now = order_of(trainer)
    if saved is None or now is None or len(saved) != len(now):
        return []
    pairs = zip(now, _origins(saved, now), strict=True)
    return [name for group, origin in pairs for name in group if name not in saved[origin]]


def _origins(saved: Order, now: Order) -> list[int]:
    """For each group of now the number of the saved one of the same parameters; its own where there is none."""
    places = {frozenset(group): number for number, group in enumerate(saved)}
    found = [places.get(frozenset(group), number) for number, group in enumerate(now)]
    return found if len(set(found)) == len(now) else list(range(len(now)))


def _reorder_rates(trainer: Any, origins: list[int]) -> None:
    """Let a scheduler that has loaded its state know the rates of groups in the order of now."""
    scheduler = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
    for name in ("base_lrs", "_last_lr"):
        rates = getattr(scheduler, name, None)
        if isinstance(rates, list) and len(rates) == len(origins):
            setattr(scheduler, name, [rates[number] for number in origins])


def _reordered(state: dict[str, Any], saved: Order, now: Order) -> dict[str, Any]:
    """A `state_dict` as if its parameters, and the groups of the same ones, had been in the order of now."""
    groups, old = state["param_groups"], state["state"]
    index = dict(zip((name for group in saved for name in group), numbers_in(state), strict=True))
    order = [name for group in now for name in group]
    numbers = iter(range(len(order)))
    return {
        **state,
        "state": {number: old[index[name]] for number, name in enumerate(order) if index[name] in old},
        "param_groups": [
            {**groups[origin], "params": [next(numbers) for _ in names]}
            for origin, names in zip(_origins(saved, now), now, strict=True)
        ],
    }
