"""What a training loop holds: begin, save, record, close; headroom, background writer, janitor."""

from keepstep.checkpointer.background import BackgroundWriter, BackPressure
from keepstep.checkpointer.checkpointer import Checkpointer
from keepstep.checkpointer.drafts import Opened
from keepstep.checkpointer.entrance import Fresh
from keepstep.checkpointer.facts import Facts
from keepstep.checkpointer.headroom import Headroom
from keepstep.checkpointer.inflight import as_storage_error
from keepstep.checkpointer.mirroring import WAIT as MIRROR_WAIT
from keepstep.checkpointer.priority import lower_priority
from keepstep.checkpointer.saving import OnCommit
from keepstep.checkpointer.stopping.signals import HEARD, Signals
from keepstep.checkpointer.stopping.stopping import Stopping
from keepstep.checkpointer.stopping.told import Preemption, Told

__all__ = [
    "HEARD",
    "MIRROR_WAIT",
    "BackPressure",
    "BackgroundWriter",
    "Checkpointer",
    "Facts",
    "Fresh",
    "Headroom",
    "OnCommit",
    "Opened",
    "Preemption",
    "Signals",
    "Stopping",
    "Told",
    "as_storage_error",
    "lower_priority",
]
