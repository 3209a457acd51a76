"""Values that trainers of TRL keep beside the stock state, as they are, in a form that JSON can carry."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, MutableSequence
from typing import Any, cast

import numpy as np
import torch

NAMES = ("_total_train_tokens", "_metrics", "_stored_metrics")
"""Token counters, and what is averaged between two logs; other trainers keep other things under these names."""
MOST_VALUES = 4096
"""Values of one tensor or array above which it is no number of a log any more, and is left out."""
_KIND = "\0kind"
"""Marks an object of JSON that stands for something else than a dict of words."""


def capture(trainer: Any) -> tuple[dict[str, Any], list[str]]:
    """What there is of `NAMES`, encoded, by name; and the names of what can't be kept exactly."""
    kept: dict[str, Any] = {}
    left_out: list[str] = []
    for name in NAMES:
        if not hasattr(trainer, name):
            continue
        try:
            kept[name] = encoded(getattr(trainer, name))
        except (TypeError, ValueError, RecursionError) as error:
            left_out.append(f"{name} ({error})")
    return kept, left_out


def restore(trainer: Any, kept: Mapping[str, Any]) -> None:
    """Put encoded values back, into the trainer's own containers where it has some."""
    for name, value in kept.items():
        if hasattr(trainer, name):
            setattr(trainer, name, _put(getattr(trainer, name), decoded(value)))


def encoded(value: Any) -> Any:
    """The value in terms of JSON, so that `decoded` gives an equal one. Raises TypeError for what can't be."""
    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return value
    if isinstance(value, Mapping):
        return _encoded_mapping(cast("Mapping[Any, Any]", value))
    if isinstance(value, MutableSequence):
        return [encoded(item) for item in cast("MutableSequence[Any]", value)]
    if isinstance(value, (tuple, set, frozenset)):
        kind = next(kind for kind in (tuple, set, frozenset) if isinstance(value, kind)).__name__
        return {_KIND: kind, "items": [encoded(item) for item in cast("tuple[Any, ...]", value)]}
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return _encoded_array(value)
    raise TypeError(f"a {type(value).__name__}")


def decoded(value: Any) -> Any:
    """The value that was encoded."""
    if isinstance(value, list):
        return [decoded(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    found = cast("dict[str, Any]", value)
    match found.get(_KIND):
        case None:
            return {name: decoded(item) for name, item in found.items()}
        case "dict":
            return {decoded(key): decoded(item) for key, item in found["items"]}
        case "tensor":
            return torch.tensor(found["values"], dtype=getattr(torch, found["dtype"]), device=found["device"])
        case "array":
            return np.array(found["values"], dtype=found["dtype"])
        case "scalar":
            return np.dtype(found["dtype"]).type(found["values"])
        case kind:
            return {"tuple": tuple, "set": set, "frozenset": frozenset}[str(kind)](map(decoded, found["items"]))


def _encoded_mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    if all(isinstance(key, str) and key != _KIND for key in value):
        return {key: encoded(item) for key, item in value.items()}
    return {_KIND: "dict", "items": [[encoded(key), encoded(item)] for key, item in value.items()]}


def _encoded_array(value: torch.Tensor | np.ndarray[Any, Any] | np.generic) -> dict[str, Any]:
    if isinstance(value, torch.Tensor):
        if value.numel() > MOST_VALUES or value.is_complex() or value.layout != torch.strided:
            raise TypeError(f"a tensor of shape {tuple(value.shape)}")
        name = str(value.dtype).removeprefix("torch.")
        return {_KIND: "tensor", "dtype": name, "device": str(value.device), "values": value.detach().tolist()}
    if value.size > MOST_VALUES or value.dtype.kind not in "biuf":
        raise TypeError(f"an array of {value.dtype} of shape {value.shape}")
    if value.dtype.itemsize > 8:
        raise TypeError(f"an array of {value.dtype}")
    kind = "scalar" if isinstance(value, np.generic) else "array"
    return {_KIND: kind, "dtype": value.dtype.name, "values": value.tolist()}


def _put(target: Any, value: Any) -> Any:
    """The value, in the target's own container where that is of its kind: a defaultdict stays one."""
    if isinstance(target, MutableMapping) and isinstance(value, dict):
        mapping = cast("MutableMapping[Any, Any]", target)
        for gone in [key for key in mapping if key not in value]:
            del mapping[gone]
        for key, item in cast("dict[Any, Any]", value).items():
            known = key in mapping or hasattr(mapping, "default_factory")
            mapping[key] = _put(mapping[key], item) if known and isinstance(item, (dict, list)) else item
        return mapping
    if isinstance(target, MutableSequence) and isinstance(value, list):
        sequence = cast("MutableSequence[Any]", target)
        sequence.clear()
        sequence.extend(cast("list[Any]", value))
        return sequence
    return value
