"""`holdfast.transformers`: the explicit form for Hugging Face trainers, and `attach`."""

from holdfast.integrations.transformers.loading import verified
from holdfast.integrations.transformers.managed import ManagedTrainer, attach

__all__ = ["ManagedTrainer", "attach", "verified"]
