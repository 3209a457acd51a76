"""Mixtures of experts: one tensor in memory for all experts of a layer, and one for each in the files."""

from __future__ import annotations

from typing import Any

from tests.matrix.inputs import TEXT_CLASS
from tests.matrix.subject import Subject
from tests.matrix.subjects.making import DECODER, EXPERTS, whole

LATENT: dict[str, Any] = {
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "kv_lora_rank": 8, "q_lora_rank": 8,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip


def _experts(name: str, **sizes: Any) -> Subject:
    return whole(name, f"{name}ForCausalLM", f"{name}Config", {**DECODER, **EXPERTS, **sizes})


MIXTURES = (
    whole("Mixtral", "MixtralForCausalLM", "MixtralConfig", {**DECODER, **EXPERTS}, killed=True),
    whole(
        "Mixtral, tied", "MixtralForCausalLM", "MixtralConfig", {**DECODER, **EXPERTS, "tie_word_embeddings": True}
    ),
    whole(
        "Mixtral, SequenceClassification", "MixtralForSequenceClassification", "MixtralConfig",
        {**DECODER, **EXPERTS}, TEXT_CLASS,
    ),
    _experts("Qwen2Moe"),
    _experts("Qwen3Moe", head_dim=8),
    _experts("Olmoe"),
    _experts("DeepseekV2", **LATENT),
    _experts("DeepseekV3", **LATENT),
    _experts("GptOss", head_dim=8),
    _experts("Phimoe"),
    _experts("Glm4Moe", head_dim=8, first_k_dense_replace=1),
    _experts("GraniteMoe"),
    _experts("Ernie4_5_Moe", moe_num_experts=4, moe_k=2, moe_layer_start_index=0),
    _experts(
        "Jamba", attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
        mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False,
    ),
)  # fmt: skip
