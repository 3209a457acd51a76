"""`keepstep.transformers`: the explicit form for Hugging Face trainers, and `attach`."""

from keepstep.integrations.transformers.attaching import attach
from keepstep.integrations.transformers.managed import ManagedTrainer
from keepstep.integrations.transformers.resuming.serving import verified

__all__ = ["ManagedTrainer", "attach", "verified"]
