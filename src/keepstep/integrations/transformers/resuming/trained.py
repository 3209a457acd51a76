"""What training changes in a model, by its names in memory, and the file for what of it no stock file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

EXTRA_NAME = "keepstep_extra.safetensors"
"""Tensors that train and are in no stock file, by their names in memory (module paths)."""
ALLOCATOR = "rankallocator"
SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What AdaLoRA's allocator of ranks knows of each parameter: sums over the steps, in no `state_dict`."""


def unwrapped(model: Any) -> Any:
    """The module whose names count: what `torch.compile` wraps has the names that it has without."""
    return getattr(model, "_orig_mod", model)


def bare(key: str) -> str:
    """A name without what a compiled model puts before it."""
    return key.removeprefix("_orig_mod.")


def adapted(model: Any) -> bool:
    """True for a model with adapters, whose stock files hold the adapters alone."""
    return bool(getattr(unwrapped(model), "peft_config", None))


class Parts(NamedTuple):
    """The live tensors of a model by module path, each once, under its first name.

    `state` has every parameter, and every buffer that a `state_dict` has; `trained` parameters that require a gradient,
    and running statistics.
    """

    state: dict[str, torch.Tensor]
    trained: dict[str, torch.Tensor]


def parts_of(model: Any) -> Parts:
    """One walk through a model, for whoever needs more than one of them: saves do, and wait for it."""
    state: dict[str, torch.Tensor] = {}
    trains: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for path, module in unwrapped(model).named_modules():
        if not (module._parameters or module._buffers):
            continue
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                state[prefix + name] = parameter
                if parameter.requires_grad:
                    trains[prefix + name] = parameter
        left_out: set[str] = module._non_persistent_buffers_set
        statistics = isinstance(module, _NormBase) and module.track_running_stats
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in left_out:
                state[prefix + name] = buffer
            if buffer is not None and statistics and id(buffer) not in seen:
                seen.add(id(buffer))
                trains[prefix + name] = buffer
    return Parts(state, trains)


def trained(model: Any) -> dict[str, torch.Tensor]:
    """Live tensors by module path: parameters that require a gradient, each once, and running statistics."""
    return parts_of(model).trained


def live_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by its name in memory, under each of its names."""
    model = unwrapped(model)
    parameters, buffers = model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    return {**dict(parameters), **dict(buffers)}


def scores(model: Any) -> dict[str, torch.Tensor]:
    """The scores by which AdaLoRA gives its ranks, by name; empty for any other model, and once all are given."""
    return {
        f"{prefix}{name}": value
        for prefix, allocator, attribute in _allocators(model)
        for name, value in getattr(allocator, attribute).items()
    }


def put_scores(model: Any, values: dict[str, torch.Tensor]) -> None:
    """Give AdaLoRA's allocator the scores that a checkpoint holds, and no others."""
    parameters = dict(unwrapped(model).named_parameters())
    devices = [parameter.device for parameter in parameters.values() if parameter.requires_grad]
    for prefix, allocator, attribute in _allocators(model):
        mine = {n.removeprefix(prefix): value.to(devices[0]) for n, value in values.items() if n.startswith(prefix)}
        setattr(allocator, attribute, mine)


def read_extra(directory: Path) -> dict[str, torch.Tensor]:
    """What the extra file of a checkpoint holds, by name in memory; nothing where it has none."""
    path = directory / EXTRA_NAME
    return safetensors.torch.load_file(path) if path.is_file() else {}


def _allocators(model: Any) -> list[tuple[str, Any, str]]:
    """Each dictionary of scores: what its names begin with, the allocator, the attribute."""
    found = [(path, module.__dict__.get(ALLOCATOR)) for path, module in unwrapped(model).named_modules()]
    return [
        (f"{_joined(path, ALLOCATOR)}.{attribute}.", allocator, attribute)
        for path, allocator in found
        for attribute in SCORES
        if isinstance(getattr(allocator, attribute, None), dict)
    ]


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
