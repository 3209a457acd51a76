"""What a training loop holds: begin, save, record, close; headroom, background writer, janitor."""

from keepstep.checkpointer.background import BackPressure
from keepstep.checkpointer.checkpointer import Checkpointer
from keepstep.checkpointer.entrance import Fresh
from keepstep.checkpointer.facts import Facts
from keepstep.checkpointer.headroom import Headroom
from keepstep.checkpointer.inflight import as_storage_error
from keepstep.checkpointer.priority import lower_priority

__all__ = ["BackPressure", "Checkpointer", "Facts", "Fresh", "Headroom", "as_storage_error", "lower_priority"]
