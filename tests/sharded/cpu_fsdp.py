"""FSDP on CPU, which accelerate does not have: `AcceleratorState` leaves MULTI_CPU out of the types that may become it.

Without it, `fsdp=True` on CPU trains as DDP. It is the only thing that is not stock in these tests.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


def allow() -> None:
    """Let trainers that are built from now on in this process use FSDP."""
    begin = AcceleratorState.__init__
    if hasattr(begin, "__wrapped__"):
        return

    @wraps(begin)
    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = init
