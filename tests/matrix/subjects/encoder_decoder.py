"""Encoders with decoders."""

from __future__ import annotations

from typing import Any

from tests.matrix.inputs import TRANSLATION, VOCABULARY
from tests.matrix.subjects.making import BOTH, whole

T5: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "pad_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip

TRANSLATORS = (
    whole("T5", "T5ForConditionalGeneration", "T5Config", T5, TRANSLATION),
    whole(
        "T5, gated and untied", "T5ForConditionalGeneration", "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, TRANSLATION,
    ),
    whole("Bart", "BartForConditionalGeneration", "BartConfig", BOTH, TRANSLATION),
    whole("Marian", "MarianMTModel", "MarianConfig", BOTH, TRANSLATION),
    whole("MBart", "MBartForConditionalGeneration", "MBartConfig", BOTH, TRANSLATION),
    whole("Pegasus", "PegasusForConditionalGeneration", "PegasusConfig", BOTH, TRANSLATION),
    whole(
        "SwitchTransformers", "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig",
        {
            **T5, "num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
            "num_decoder_layers": 1,
        },
        TRANSLATION,
    ),
)  # fmt: skip
