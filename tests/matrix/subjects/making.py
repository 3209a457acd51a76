"""Models from classes of configurations by name, so that a library without them only lacks the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

from tests.matrix.inputs import IMAGE_TOKEN, SIDE, TEXT, VISION_START, VOCABULARY, Inputs
from tests.matrix.subject import Subject

SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, **SPECIAL,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 8, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "n_routed_experts": 4, "shared_expert_intermediate_size": 8,
}  # fmt: skip
ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 64, **SPECIAL,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": SIDE,
    "patch_size": 8,
}  # fmt: skip
BOTH: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64,
    "decoder_start_token_id": 1, "forced_eos_token_id": 2, **SPECIAL,
}  # fmt: skip
IMAGE_TOKENS: dict[str, Any] = {
    "image_token_id": IMAGE_TOKEN, "image_token_index": IMAGE_TOKEN, "vision_start_token_id": VISION_START,
    "video_token_id": VISION_START + 2,
}  # fmt: skip


def config(name: str, **sizes: Any) -> Any:
    """A configuration of transformers by the name of its class."""
    return getattr(transformers, name)(**sizes)


def whole(name: str, model: str, settings: str, sizes: dict[str, Any], inputs: Inputs = TEXT, **more: Any) -> Subject:
    """A full fine-tuning of a class of transformers, with a configuration of sizes; `more` is the subject's."""
    return made(name, model, lambda: config(settings, **sizes), inputs, settings, **more)


def made(name: str, model: str, configured: Callable[[], Any], inputs: Inputs, *configs: str, **more: Any) -> Subject:
    """The same with a configuration that has others inside; `configs` are the classes that it needs."""
    needs = tuple(f"transformers.{one}" for one in (model, *configs))
    return Subject(name, lambda first: getattr(transformers, model)(configured()), inputs, needs, **more)
