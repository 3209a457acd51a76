"""Models of text: decoders, encoders and heads."""

from __future__ import annotations

from typing import Any

from tests.matrix.inputs import ANSWER, TEXT, TEXT_CLASS, TOKEN_CLASSES, VOCABULARY
from tests.matrix.subject import Subject
from tests.matrix.subjects.making import DECODER, ENCODER, SPECIAL, whole


def _decoder(name: str, **sizes: Any) -> Subject:
    return whole(name, f"{name}ForCausalLM", f"{name}Config", {**DECODER, **sizes})


def _encoder(name: str, head: str, inputs: Any, **sizes: Any) -> Subject:
    return whole(f"{name}, {head.removeprefix('For')}", f"{name}{head}", f"{name}Config", {**ENCODER, **sizes}, inputs)


WIDTHS: dict[str, Any] = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": VOCABULARY,
    "n_positions": 64,
    **SPECIAL,
}

DECODERS = (
    whole("Llama", "LlamaForCausalLM", "LlamaConfig", DECODER, killed=True),
    whole("Llama, tied", "LlamaForCausalLM", "LlamaConfig", {**DECODER, "tie_word_embeddings": True}),
    _decoder("Mistral"),
    _decoder("Qwen2", tie_word_embeddings=True),
    _decoder("Qwen3", head_dim=8),
    _decoder("Gemma2", head_dim=8),
    whole("Gemma3, text", "Gemma3ForCausalLM", "Gemma3TextConfig", {**DECODER, "head_dim": 8}),
    _decoder("Phi3"),
    _decoder("Olmo2"),
    _decoder("Cohere"),
    _decoder("Glm4", head_dim=8),
    _decoder("Granite"),
    _decoder("Starcoder2"),
    _decoder("StableLm"),
    whole("GPTNeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", DECODER, killed=True),
    whole("GPT2", "GPT2LMHeadModel", "GPT2Config", WIDTHS),
    whole("GPTJ", "GPTJForCausalLM", "GPTJConfig", {**WIDTHS, "rotary_dim": 4}),
    whole("Bloom", "BloomForCausalLM", "BloomConfig", {**DECODER, "n_layer": 2, "n_head": 2}),
    _decoder("Falcon"),
    whole("OPT", "OPTForCausalLM", "OPTConfig", {**DECODER, "ffn_dim": 16, "word_embed_proj_dim": 16}),
    whole("Mamba", "MambaForCausalLM", "MambaConfig", {**DECODER, "state_size": 4}),
    whole(
        "Mamba2", "Mamba2ForCausalLM", "Mamba2Config",
        {**DECODER, "state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    ),
    whole(
        "RecurrentGemma", "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig",
        {**DECODER, "lru_width": 16, "attention_window_size": 8, "block_types": ("recurrent", "attention")},
    ),
)  # fmt: skip

ENCODERS = (
    _encoder("Bert", "ForMaskedLM", TEXT),
    _encoder("Bert", "ForSequenceClassification", TEXT_CLASS),
    _encoder("Roberta", "ForSequenceClassification", TEXT_CLASS),
    _encoder("XLMRoberta", "ForTokenClassification", TOKEN_CLASSES),
    _encoder("Electra", "ForQuestionAnswering", ANSWER, embedding_size=16),
    _encoder("Albert", "ForSequenceClassification", TEXT_CLASS, embedding_size=8),
    _encoder("ModernBert", "ForSequenceClassification", TEXT_CLASS, cls_token_id=1, sep_token_id=2),
    _encoder("MPNet", "ForMaskedLM", TEXT),
    _encoder("DebertaV2", "ForSequenceClassification", TEXT_CLASS),
    whole(
        "DistilBert, SequenceClassification", "DistilBertForSequenceClassification", "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "pad_token_id": 0},
        TEXT_CLASS,
    ),
    whole("Llama, SequenceClassification", "LlamaForSequenceClassification", "LlamaConfig", DECODER, TEXT_CLASS),
    whole("GPT2, SequenceClassification", "GPT2ForSequenceClassification", "GPT2Config", WIDTHS, TEXT_CLASS),
)  # fmt: skip
