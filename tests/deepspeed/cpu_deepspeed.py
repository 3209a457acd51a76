"""DeepSpeed on CPU: accelerate gives it a backend on accelerators alone, and DeepSpeed would compile one with g++.

transformers lets bf16 in on a GPU, or with `use_cpu`, with which accelerate ignores DeepSpeed. It is the only thing
that is not stock in these tests.
"""

from __future__ import annotations

import os
from functools import wraps
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed.ops
from accelerate.state import PartialState
from transformers import training_args

# Compiled at the first start otherwise; a start that is killed then leaves a lock on which every later one hangs.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def allow() -> None:
    """Let trainers that are built from now on in this process use DeepSpeed."""
    prepare = PartialState._prepare_backend
    if hasattr(prepare, "__wrapped__"):
        return

    @wraps(prepare)
    def prepared(self: Any, cpu: bool = False, sagemaker_dp: bool = False, backend: str | None = None) -> Any:
        found, kind = prepare(self, cpu, sagemaker_dp, backend)
        return (found or "gloo"), kind

    PartialState._prepare_backend = prepared
    training_args.is_torch_bf16_gpu_available = lambda: True
