"""What optimizers keep for each parameter, as their own code makes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from keepstep.errors import SettingsError
from keepstep.operations.planning.tensors import Tensor

BLOCK = 256
"""Values that share one fp32 scale in bitsandbytes' 8-bit state (`blocksize` in bitsandbytes/optim/optimizer.py)."""
SMALLEST_8BIT = 4096
"""Tensors with fewer values keep fp32 state (`min_8bit_size` in bitsandbytes/optim/optimizer.py)."""
QMAP = Tensor("qmap", (256,), "fp32")
"""bitsandbytes' table of the 256 values that a byte stands for; all tensors share one for each moment."""

State = list[Tensor]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One optimizer: its state for a parameter, and what is stored once for all of them."""

    name: str
    state_of: Callable[[Tensor], State]
    shared: tuple[Tensor, ...] = ()
    source: str = "torch.optim"


def optimizer_named(name: str) -> Optimizer:
    """The optimizer of that name, ours or as `optim` of transformers' TrainingArguments. Raises SettingsError."""
    plain = re.sub(r"[_\s]+", "-", name.strip().lower())
    found = OPTIMIZERS.get(_TRANSFORMERS_NAMES.get(plain, plain))
    if found is None:
        from difflib import get_close_matches

        near = get_close_matches(plain, OPTIMIZERS, n=1)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise SettingsError(
            f"the state of the optimizer {name!r} is not known", hint=f"{guess}Known are {', '.join(OPTIMIZERS)}."
        )
    return found


def state_tensors(optimizer: Optimizer, trained: Iterable[Tensor], *, master_weights: bool = False) -> State:
    """Every tensor of the optimizer's state.

    With `master_weights` the optimizer keeps an fp32 copy of each parameter and makes its state for that one, as
    DeepSpeed's, Megatron's and Apex' mixed-precision optimizers do.
    """
    tensors = list(trained)
    state: State = []
    for tensor in tensors:
        stepped = replace(tensor, dtype="fp32") if master_weights else tensor
        state += [stepped] if master_weights else []
        state += optimizer.state_of(stepped)
    large = any(tensor.numel >= SMALLEST_8BIT and not tensor.embedding for tensor in tensors)
    return [*state, *(optimizer.shared if large else ())]


def _like(tensor: Tensor, dtype: str | None = None) -> Tensor:
    return Tensor("", tensor.shape, dtype or tensor.dtype)


def _scalar(dtype: str = "fp32") -> Tensor:
    return Tensor("", (), dtype)


def _moments(count: int, *, step: bool) -> Callable[[Tensor], State]:
    """State of the parameter's own dtype, and a step counter where torch keeps one as a tensor."""

    def state_of(tensor: Tensor) -> State:
        return [_scalar()] * step + [_like(tensor)] * count

    return state_of


def _full_precision(count: int) -> Callable[[Tensor], State]:
    """bitsandbytes' 32-bit state: fp32 whatever the parameter's dtype is; the step is no tensor."""

    def state_of(tensor: Tensor) -> State:
        return [_like(tensor, "fp32")] * count

    return state_of


def _blockwise(count: int) -> Callable[[Tensor], State]:
    """bitsandbytes' 8-bit state: a byte a value and an fp32 scale a block (Dettmers et al. 2022, arXiv:2110.02861).

    Embeddings keep fp32 state: transformers' Trainer asks for that.
    """

    def state_of(tensor: Tensor) -> State:
        if tensor.embedding or tensor.numel < SMALLEST_8BIT:
            return [_like(tensor, "fp32")] * count
        return [_like(tensor, "i8"), Tensor("", (-(-tensor.numel // BLOCK),), "fp32")] * count

    return state_of


def _adafactor(tensor: Tensor) -> State:
    """transformers' Adafactor without first moment: a row and a column for each matrix, and the RMS, in fp32."""
    shape = tensor.shape
    if len(shape) < 2:
        return [_like(tensor, "fp32"), _scalar()]
    return [Tensor("", shape[:-1], "fp32"), Tensor("", (*shape[:-2], shape[-1]), "fp32"), _scalar()]


_BNB = "bitsandbytes"
OPTIMIZERS = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("adamw", _moments(2, step=True)),
        Optimizer("adamw-32bit", _full_precision(2), source=_BNB),
        Optimizer("adamw-8bit", _blockwise(2), (QMAP, QMAP), _BNB),
        Optimizer("adafactor", _adafactor, source="transformers"),
        Optimizer("sgd", _moments(0, step=False)),
        Optimizer("sgd-momentum", _moments(1, step=False)),
        Optimizer("lion", _full_precision(1), source=_BNB),
        Optimizer("lion-8bit", _blockwise(1), (QMAP,), _BNB),
        Optimizer("adagrad", _moments(1, step=True)),
        Optimizer("rmsprop", _moments(1, step=True)),
        Optimizer("paged-adamw", _full_precision(2), source=_BNB),
        Optimizer("paged-adamw-8bit", _blockwise(2), (QMAP, QMAP), _BNB),
        Optimizer("paged-lion", _full_precision(1), source=_BNB),
        Optimizer("paged-lion-8bit", _blockwise(1), (QMAP,), _BNB),
    )
}
"""Every optimizer whose state is known, by name. Paged ones keep the same bytes; only where they live differs."""
_TRANSFORMERS_NAMES = {
    "adamw-torch": "adamw", "adamw-torch-fused": "adamw", "adamw-torch-xla": "adamw", "adamw-torch-npu-fused": "adamw",
    "adamw-bnb-8bit": "adamw-8bit", "lion-32bit": "lion", "paged-adamw-32bit": "paged-adamw",
    "paged-lion-32bit": "paged-lion",
}  # fmt: skip
