"""A decoder-only transformer of a given number of parameters, by rule of thumb, where there is no model to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keepstep.errors import SettingsError
from keepstep.operations.planning.tensors import Inventory, Tensor
from keepstep.units import format_number

WIDTH_PER_LAYER = 128
"""Hidden size per layer: 4096 / 32 of Llama-7B, 5120 / 40 of 13B, 8192 / 80 of 70B is the slimmest."""
_LARGEST = 10**15
DEFAULT_TARGETS = ("q_proj", "v_proj")
"""What PEFT adapts in Llama and Mistral when nothing is said."""
ALL_LINEAR = "all-linear"


def decoder(parameters: int, dtype: str) -> Inventory:
    """A model of exactly so many parameters in matrices of likely shapes. Raises SettingsError beyond 10**15."""
    tensors = tuple(_tensors(parameters, dtype))
    return Inventory(tensors, tensors, parameters, exact=False, description=_describe(parameters, dtype))


def decoder_with_lora(parameters: int, dtype: str, rank: int, targets: Sequence[str], adapter_dtype: str) -> Inventory:
    """The adapter of such a model: for each target, matrices of in_features x rank and rank x out_features.

    Raises SettingsError for a target that such a model does not have.
    """
    layers, hidden, inner = _shape(parameters)
    features = _features(hidden, inner)
    names = list(features) if ALL_LINEAR in targets else list(targets)
    for name in names:
        if name not in features:
            raise SettingsError(
                f"without a model's config nobody knows how large {name!r} is",
                hint=f"Give a model directory or config.json, or use {', '.join(features)} or {ALL_LINEAR}.",
            )
    tensors: list[Tensor] = []
    for layer in range(layers):
        for name in names:
            wide, out = features[name]
            stem = f"base_model.model.model.layers.{layer}.{name}"
            tensors.append(Tensor(f"{stem}.lora_A.weight", (rank, wide), adapter_dtype))
            tensors.append(Tensor(f"{stem}.lora_B.weight", (out, rank), adapter_dtype))
    saved = tuple(tensors)
    what = f"LoRA of rank {rank} on {', '.join(names)} ({adapter_dtype})"
    return Inventory(
        saved, saved, parameters, exact=False, description=f"{_describe(parameters, dtype)}, {what}", adapter=True
    )


def _describe(parameters: int, dtype: str) -> str:
    return f"{format_number(parameters / 1e9)} billion parameters ({dtype})"


def _shape(parameters: int) -> tuple[int, int, int]:
    """Layers, hidden size and inner size: a layer has about 12 times the square of the hidden size."""
    if parameters > _LARGEST:
        raise SettingsError(f"{parameters:,} parameters are more than anybody trains", hint="Check the letter: 13B.")
    layers = max(round((parameters / (12 * WIDTH_PER_LAYER**2)) ** (1 / 3)), 1)
    hidden = max(math.isqrt(parameters // (12 * layers)), 1)
    return layers, hidden, max(8 * hidden // 3, 1)


def _features(hidden: int, inner: int) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a layer's linear maps."""
    square = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (hidden, hidden))
    return square | {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}


def _tensors(parameters: int, dtype: str) -> list[Tensor]:
    layers, hidden, inner = _shape(parameters)
    left = parameters
    tensors: list[Tensor] = []
    for layer in range(layers):
        for name, (wide, out) in _features(hidden, inner).items():
            if wide * out <= left:
                tensors.append(Tensor(f"model.layers.{layer}.{name}.weight", (out, wide), dtype))
                left -= wide * out
    rows, rest = divmod(left, hidden)
    tensors += [Tensor("model.embed_tokens.weight", (rows, hidden), dtype, embedding=True)] if rows else []
    return tensors + ([Tensor("model.norm.weight", (rest,), dtype)] if rest else [])
