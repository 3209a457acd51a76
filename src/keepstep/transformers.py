"""`keepstep.transformers`: the explicit form for Hugging Face trainers, and `attach`."""

from keepstep.integrations.transformers.managed import ManagedTrainer, attach
from keepstep.integrations.transformers.resuming.serving import verified

__all__ = ["ManagedTrainer", "attach", "verified"]
