"""What `zero` starts: unpickles what DeepSpeed's ranks wrote, and leaves the weights in files of safetensors."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import torch

from keepstep.formats.safetensors_file import TensorSpec
from keepstep.integrations.transformers.exporting.tensors import MODEL, write_shards
from keepstep.operations.export.request import SHARD_BYTES


class GatheredTensors:
    """Tensors by name, each put together when it is asked for, floating ones in their dtype of `dtypes`."""

    def __init__(self, parts: dict[str, Any], dtypes: dict[str, torch.dtype], tied: Iterable[list[str]]) -> None:
        """`tied` are names that are one tensor in the model: the first is written, as stock writers do."""
        self._parts, self._dtypes = parts, dtypes
        twice = {name for names in tied for name in names[1:] if self._are_one(names[0], name)}
        self.names = [name for name in parts if name not in twice]

    def __enter__(self) -> GatheredTensors:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def get(self, name: str) -> torch.Tensor:
        """A tensor in memory of its own."""
        whole = self._parts[name].contiguous()
        return whole.to(self._dtype(name)).clone()

    def spec(self, name: str) -> TensorSpec:
        """Dtype, shape and bytes of a tensor, which is not put together."""
        shape, dtype = tuple(self._parts[name].shape), self._dtype(name)
        return TensorSpec(dtype, shape, prod(shape) * dtype.itemsize)

    def _dtype(self, name: str) -> torch.dtype:
        found: torch.dtype = self._parts[name].dtype
        return self._dtypes.get(name, found) if found.is_floating_point else found

    def _are_one(self, first: str, other: str) -> bool:
        if not {first, other} <= set(self._parts):
            return False
        return self._parts[first] is self._parts[other] or torch.equal(self.get(first), self.get(other))


def gather(checkpoint: Path, room: str, into: Path, tied: list[list[str]]) -> None:
    """Write the weights that lie in a checkpoint's directory of DeepSpeed into files of safetensors. Unpickles."""
    put_together: Any = import_module("deepspeed.utils.zero_to_fp32").get_fp32_state_dict_from_zero_checkpoint
    lazy = {"lazy_mode": True} if "lazy_mode" in inspect.signature(put_together).parameters else {}
    with redirect_stdout(sys.stderr):
        parts = put_together(str(checkpoint), tag=room, **lazy)
    state = min((checkpoint / room).glob("*mp_rank_00_model_states.pt"))
    # Under ZeRO-3 these are placeholders, which say the dtype.
    kept = torch.load(state, map_location="cpu", mmap=True, weights_only=False)["module"]
    dtypes = {name: value.dtype for name, value in kept.items() if isinstance(value, torch.Tensor)}
    write_shards(GatheredTensors(dict(parts), dtypes, tied), into, MODEL, SHARD_BYTES, lambda _: None)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    gather(Path(given["checkpoint"]), given["room"], Path(given["into"]), given["tied"])
