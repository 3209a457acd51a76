"""`keepstep.transformers`: the explicit form for Hugging Face trainers, and `attach`."""

from keepstep.integrations.transformers.loading import verified
from keepstep.integrations.transformers.managed import ManagedTrainer, attach

__all__ = ["ManagedTrainer", "attach", "verified"]
