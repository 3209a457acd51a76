"""The tensors that a resume must bring back: of a trainer's model and of its optimizer's state, by name in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from keepstep.integrations.transformers.resuming.trained import Parts, adapted, parts_of, unwrapped
from keepstep.integrations.transformers.setup.own_code import SAVES, own


def model_state(model: Any) -> dict[str, torch.Tensor]:
    """Live tensors by module path: every parameter once, and every buffer that a `state_dict` has."""
    return parts_of(model).state


def optional_in(trainer: Any, parts: Parts) -> set[str]:
    """Names of what a save may leave out of a model's state: nothing of a model of transformers that is saved whole.

    Else it is what does not train.
    """
    model = unwrapped(trainer.model)
    if isinstance(model, PreTrainedModel) and not adapted(model) and not own(trainer, SAVES):
        return set()
    return parts.state.keys() - parts.trained.keys()


def optimizer_state(trainer: Any, parameters: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Live tensors of an optimizer's state: `parameter|key`, the parameter by its name, else by its number.

    Empty for an optimizer that keeps no state by parameter. `parameters` are the model's, where somebody has them.
    """
    state: Any = getattr(bare_optimizer(trainer), "state", None)
    if not isinstance(state, Mapping):
        return {}
    return {
        f"{name}|{key}": tensor
        for _, name, parameter in named_parameters_of(trainer, parameters)
        for key, tensor in tensors_within(state.get(parameter))
    }


def tensors_of_state(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of an optimizer's `state_dict`, called as `optimizer_state` does; `names` are its parameters'."""
    return {
        f"{name}|{key}": tensor
        for name, number in zip(names, numbers_in(state), strict=False)
        for key, tensor in tensors_within(state["state"].get(number))
    }


def numbers_in(state: Mapping[str, Any]) -> list[Any]:
    """The keys of the parameters in an optimizer's `state_dict`, in the order of its groups."""
    return [number for group in state["param_groups"] for number in group["params"]]


def named_parameters_of(
    trainer: Any, parameters: Mapping[str, torch.Tensor] | None = None
) -> list[tuple[int, str, torch.Tensor]]:
    """The parameters of an optimizer in the order of its groups: number, name in memory or `#number`, the tensor."""
    named = dict(unwrapped(trainer.model).named_parameters()) if parameters is None else parameters
    names = {id(parameter): name for name, parameter in named.items()}
    groups: Any = getattr(bare_optimizer(trainer), "param_groups", ())
    optimized = [parameter for group in groups for parameter in group["params"]]
    return [(number, names.get(id(p), f"#{number}"), p) for number, p in enumerate(optimized)]


def bare_optimizer(trainer: Any) -> Any:
    """A trainer's optimizer without what accelerate puts around it."""
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)


def tensors_within(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in a value, however deep, each with the path to it."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, (Mapping, list, tuple)):
        items: Any = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from tensors_within(item, f"{path}.{key}" if path else str(key))
