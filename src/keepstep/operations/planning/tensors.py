"""What a checkpoint will hold, as names, shapes and dtypes without any values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keepstep.errors import SettingsError

WIDTHS = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "i64": 8, "i32": 4, "i16": 2, "i8": 1}
"""Bytes of one value, by dtype."""
_OTHER_NAMES = {
    "float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float": "fp32",
    "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8",
    "uint8": "i8", "bool": "i8",
}  # fmt: skip
TRAINABLE = ("bf16", "fp16", "fp32")
"""Dtypes that weights are trained and saved in."""


def dtype_named(name: str) -> str:
    """The short name of a dtype: `bf16` for `bfloat16` or `torch.bfloat16`. Raises SettingsError."""
    plain = name.strip().lower().removeprefix("torch.")
    short = _OTHER_NAMES.get(plain, plain)
    if short not in WIDTHS:
        raise SettingsError(f"there is no dtype {name!r}", hint=f"Use one of {', '.join(TRAINABLE)}.")
    return short


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `dtype` is a key of `WIDTHS`; `embedding` says that it is an embedding's table."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    embedding: bool = False

    @property
    def numel(self) -> int:
        """Number of values; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.numel * WIDTHS[self.dtype]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The tensors of a training: those that are saved as weights, and those that the optimizer steps.

    `parameters` counts the whole model's, the base under an adapter included; `exact` says that shapes come from a
    model and not from a rule of thumb; `other_bytes` are files copied along, such as the tokenizer's. `tied` are saved
    ones under their further names, which ranks write once more.
    """

    saved: tuple[Tensor, ...]
    trained: tuple[Tensor, ...]
    parameters: int
    exact: bool
    description: str
    adapter: bool = False
    other_bytes: int = 0
    tied: tuple[Tensor, ...] = ()

    @property
    def trained_parameters(self) -> int:
        """Number of values that the optimizer steps."""
        return sum(tensor.numel for tensor in self.trained)
