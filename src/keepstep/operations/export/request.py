"""What is asked of an export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from keepstep.errors import SettingsError
from keepstep.retention import Mode
from keepstep.run import Reference

Dtype = Literal["bf16", "fp16", "fp32"]
Soup = Literal["uniform", "greedy"]
Evaluate = Callable[[Any], float]
"""Takes a model, as its library loads it, and returns a value to compare it by."""

HEADER_DTYPES: dict[str, str] = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""The header's name in a safetensors file of each dtype."""
TORCH_DTYPES: dict[str, str] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""torch's name of each dtype, as a model's config has it."""
SHARD_BYTES = 5 * 10**9
"""Bytes of weights in one file at most, where files are written anew and nothing else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One export as it is asked for; sizes in bytes.

    `reference` names the checkpoint, or, with `average`, the member that config and tokenizer come from. `average` is
    `best:K` or references joined by commas. `base` is the model that an adapter belongs to: a directory or a hub
    name; `base_name` is what the exported adapter says instead. `config_from` is a directory with the config and the
    tokenizer of a model whose checkpoint has none.
    """

    directory: Path
    reference: Reference | None = None
    dtype: Dtype | None = None
    max_shard_size: int | None = None
    merge: bool = False
    base: str | None = None
    base_name: str | None = None
    config_from: Path | None = None
    average: str | None = None
    soup: Soup = "uniform"
    eval_data: Path | None = None
    evaluate: Evaluate | None = None
    mode: Mode = "min"
    include: tuple[str, ...] = ()
    force: bool = False
    check: bool = True

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, (*get_args(Dtype), None))
        _one_of("soup", self.soup, get_args(Soup))
        _one_of("mode", self.mode, ("min", "max"))
        if self.reference is None and self.average is None:
            raise SettingsError("there is nothing to export", hint="Name a checkpoint, or give average='best:3'.")
        if self.average is None and self.soup == "greedy":
            raise SettingsError("a soup is made of several checkpoints", hint="Say of which: --average best:3")
        if self.evaluate is not None and self.eval_data is not None:
            raise SettingsError("evaluate and eval_data are two ways to say one thing", hint="Give one of them.")
        if self.soup == "greedy" and not self.evaluates:
            raise SettingsError(
                "a greedy soup takes in what makes it better, so it needs something to measure by",
                hint="Give --eval-data FILE (a text or JSON lines file), or evaluate= in Python.",
            )
        if self.evaluates and self.average is None:
            raise SettingsError(
                "only an average is evaluated", hint="Leave out the eval data, or add --average best:3."
            )

    @property
    def evaluates(self) -> bool:
        """True where there is something to evaluate with."""
        return self.evaluate is not None or self.eval_data is not None


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}", hint="It is one of " + ", ".join(map(str, filter(None, allowed))))
