"""What trains in a model, as values that can be compared: with those that were saved, and with another course's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tests.matrix.verdict import Share

Values = dict[str, torch.Tensor]
CLOCKS = ("_runtime", "_per_second", "_preparation_time", "step_time")
"""Endings of the values of a log that a clock measured."""
SHOWN = 3
"""Names of what is lost that are kept."""


def trained(model: Any) -> Values:
    """Copies of all that trains, by module path: parameters that require a gradient, each once, and saved buffers."""
    module = getattr(model, "_orig_mod", model)
    found = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for path, part in module.named_modules():
        kept = {name: b for name, b in part._buffers.items() if name not in part._non_persistent_buffers_set}
        found |= {f"{path}.{name}".lstrip("."): buffer for name, buffer in kept.items() if buffer is not None}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def states(model: nn.Module, optimizer: Any) -> Values:
    """Copies of an optimizer's tensors, by module path and key."""
    module = getattr(model, "_orig_mod", model)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    inner = getattr(optimizer, "optimizer", optimizer)
    return {
        f"{names.get(id(parameter), '?')} {key}": value.detach().clone()
        for parameter, kept in inner.state.items()
        for key, value in kept.items()
        if isinstance(value, torch.Tensor)
    }


def shake(model: nn.Module, seed: int) -> None:
    """Move all that trains by random numbers of a seed, so that no value is by chance what it was saved as."""
    generator = torch.Generator().manual_seed(seed)
    module = getattr(model, "_orig_mod", model)
    statistics = [b for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var"))]
    with torch.no_grad():
        for tensor in [*(p for p in module.parameters() if p.requires_grad), *statistics]:
            noise = torch.rand(tensor.shape, generator=generator) * 0.01
            tensor.add_(noise.to(tensor.dtype))


def share(saved: Values, now: Values) -> Share:
    """How many of the values that were saved are there now: tensor by tensor, bit by bit."""
    lost = [name for name, tensor in saved.items() if name not in now or not same_bits(tensor, now[name])]
    sizes = {name: tensor.numel() for name, tensor in saved.items()}
    total = sum(sizes.values())
    return Share(total - sum(sizes[name] for name in lost), total, tuple(lost[:SHOWN]))


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """True where two tensors have one type, one shape and the same bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    left, right = (tensor.contiguous().flatten() for tensor in (one, other))
    return not one.numel() or torch.equal(left.view(torch.uint8), right.view(torch.uint8))


def distance(one: Values, other: Values) -> float:
    """The largest difference of two values of one place; infinite where names or shapes differ, NaN where one is."""
    if one.keys() != other.keys() or any(one[name].shape != other[name].shape for name in one):
        return float("inf")
    gaps = [(one[name].double() - other[name].double()).abs().max() for name in one if one[name].numel()]
    return torch.stack(gaps).max().item() if gaps else 0.0


Course = tuple[Values, Sequence[Mapping[str, Any]]]
"""The weights at the end of a training, and its log."""


def difference(whole: Course, resumed: Course, uncompared: str = "") -> str:
    """How far a resumed training is off from the whole one, in its weights and its losses; empty where it is not.

    Values of the log that a clock measured are left out, and the one called `uncompared`.
    """
    found: list[str] = []
    (weights, log), (others, other_log) = whole, resumed
    if not share(weights, others).whole or weights.keys() != others.keys():
        found.append(f"weights off by {_number(distance(weights, others))}")
    lines, other_lines = ([_comparable(entry, uncompared) for entry in entries] for entries in (log, other_log))
    if lines != other_lines:
        gap = _gap(lines, other_lines)
        found.append(f"losses off by {_number(gap)}" if gap else "log differs")
    return ", ".join(found)


def _comparable(entry: Mapping[str, Any], uncompared: str) -> dict[str, Any]:
    left_out = ("total_flos", uncompared)
    return {name: value for name, value in entry.items() if not name.endswith(CLOCKS) and name not in left_out}


def _gap(lines: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """The largest difference of a loss; NaN where one is."""
    by_step, other_steps = ({e["step"]: e["loss"] for e in entries if "loss" in e} for entries in (lines, others))
    gaps = [abs(by_step[step] - other_steps[step]) for step in by_step.keys() & other_steps.keys()]
    return next(filter(math.isnan, gaps), max(gaps, default=0.0))


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.1g}"
