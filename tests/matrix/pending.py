"""Rows that are not yet what they are to be, by the place in the table where they stand."""

from __future__ import annotations

from transformers import __version__

_CONVERTED = (
    "Mixtral", "Mixtral, tied", "Mixtral, SequenceClassification", "Qwen2Moe", "Qwen3Moe", "Olmoe", "DeepseekV2",
    "DeepseekV3", "Phimoe", "Glm4Moe", "Ernie4_5_Moe", "Jamba", "Mixtral, torch.compile", "Mixtral, compiled in place",
    "Mixtral, gradient checkpointing", "Mixtral, gradient accumulation", "Mixtral, bf16",
    "Mixtral, bf16 mixed precision", "Mixtral, many files", "Mixtral, resized embeddings", "Mixtral, partly frozen",
    "Mixtral, weight norm", "Mixtral, a class of the user's", "Mixtral, loaded", "Mixtral, bf16, loaded",
    "Mixtral from one without a head, loaded", "Qwen3Moe, loaded",
)  # fmt: skip
_ANY = (
    "Detr", "LoRA, one frozen beside", "Adafactor of transformers, bf16", "NAdam, bf16", "ASGD, bf16",
    "groups in another order", "two states swapped in the file", "states of other shapes in the file",
    "a state scaled in the file",
)  # fmt: skip

PENDING = frozenset(_ANY + (_CONVERTED if int(__version__.split(".")[0]) >= 5 else ()))
"""Names of rows that must fail as yet: one that does not fails the tests. transformers 4 converts nothing."""
