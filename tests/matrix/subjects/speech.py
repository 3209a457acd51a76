"""Models of speech."""

from __future__ import annotations

from typing import Any

from tests.matrix.inputs import FEATURES, SPECTROGRAM_CLASS, SPECTROGRAM_TEXT, SPEECH_CLASS, SPEECH_TEXT
from tests.matrix.subject import Subject
from tests.matrix.subjects.making import BOTH, VISION, whole

WAVES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (10,), "num_feat_extract_layers": 1,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "mask_time_length": 2,
}  # fmt: skip


def _speech(name: str, head: str, inputs: Any, **sizes: Any) -> Subject:
    return whole(f"{name}, {head}", f"{name}For{head}", f"{name}Config", {**WAVES, **sizes}, inputs)


SPEECH = (
    _speech("Wav2Vec2", "CTC", SPEECH_TEXT),
    _speech("Hubert", "SequenceClassification", SPEECH_CLASS),
    _speech("WavLM", "SequenceClassification", SPEECH_CLASS),
    _speech("UniSpeech", "CTC", SPEECH_TEXT),
    whole(
        "Whisper", "WhisperForConditionalGeneration", "WhisperConfig",
        {
            **BOTH, "num_mel_bins": FEATURES, "max_source_positions": 8, "max_target_positions": 16,
            "begin_suppress_tokens": None, "suppress_tokens": None,
        },
        SPECTROGRAM_TEXT,
    ),
    whole(
        "AST", "ASTForAudioClassification", "ASTConfig",
        {
            **VISION, "num_mel_bins": FEATURES, "max_length": 16, "patch_size": 4, "time_stride": 4,
            "frequency_stride": 4,
        },
        SPECTROGRAM_CLASS,
    ),
)  # fmt: skip
