"""Models of images and text."""

from __future__ import annotations

from typing import Any

from tests.matrix.inputs import (
    CAPTION,
    CAPTIONED,
    FRAMES_CAPTION,
    IMAGE_TOKEN,
    PAIR,
    PATCHES_CAPTION,
    TEXT_CLASS,
    TYPED_CAPTION,
)
from tests.matrix.subjects.making import DECODER, ENCODER, IMAGE_TOKENS, VISION, config, made

ROTARY = {"type": "mrope", "mrope_section": [2, 1, 1], "rope_type": "default"}


def llava() -> Any:
    """The configuration of a small Llava."""
    return config(
        "LlavaConfig", vision_config=config("CLIPVisionConfig", **VISION), text_config=config("LlamaConfig", **DECODER),
        image_token_index=IMAGE_TOKEN,
    )  # fmt: skip


def _gemma3() -> Any:
    return config(
        "Gemma3Config", text_config={**DECODER, "head_dim": 8}, vision_config=VISION, mm_tokens_per_image=4,
        image_token_index=IMAGE_TOKEN, boi_token_index=58, eoi_token_index=57,
    )  # fmt: skip


def _paligemma() -> Any:
    return config(
        "PaliGemmaConfig", text_config={"model_type": "gemma", **DECODER, "head_dim": 8},
        vision_config={"model_type": "siglip_vision_model", **VISION, "projection_dim": 16, "vision_use_head": False},
        projection_dim=16, image_token_index=IMAGE_TOKEN, image_token_id=IMAGE_TOKEN,
    )  # fmt: skip


def _qwen2() -> Any:
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 16, "patch_size": 8}
    return config(
        "Qwen2VLConfig", text_config={**DECODER, "rope_scaling": ROTARY}, vision_config=vision, **IMAGE_TOKENS
    )


def _qwen25() -> Any:
    vision = {
        "depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 16, "patch_size": 8, "intermediate_size": 16,
        "window_size": 16, "fullatt_block_indexes": [0],
    }  # fmt: skip
    return config(
        "Qwen2_5_VLConfig", text_config={**DECODER, "rope_scaling": ROTARY}, vision_config=vision, **IMAGE_TOKENS
    )


def _smolvlm() -> Any:
    return config(
        "SmolVLMConfig", text_config={"model_type": "llama", **DECODER}, vision_config=VISION,
        image_token_id=IMAGE_TOKEN, scale_factor=2, pad_token_id=0,
    )  # fmt: skip


def _two_towers(name: str, **more: Any) -> Any:
    return config(f"{name}Config", text_config={**ENCODER}, vision_config=VISION, **more)


def _encoder_decoder() -> Any:
    encoder, decoder = (
        config("ViTConfig", **VISION),
        config("GPT2Config", n_embd=16, n_layer=1, n_head=2, vocab_size=64),
    )
    found = config("VisionEncoderDecoderConfig", encoder=encoder.to_dict(), decoder=decoder.to_dict())
    found.decoder.is_decoder = found.decoder.add_cross_attention = True
    found.decoder_start_token_id, found.pad_token_id = 1, 0
    return found


IMAGES_AND_TEXT = (
    made("Llava", "LlavaForConditionalGeneration", llava, CAPTION, "LlavaConfig"),
    made("Gemma3", "Gemma3ForConditionalGeneration", _gemma3, TYPED_CAPTION, "Gemma3Config"),
    made("Gemma3, SequenceClassification", "Gemma3ForSequenceClassification", _gemma3, TEXT_CLASS, "Gemma3Config"),
    made("PaliGemma", "PaliGemmaForConditionalGeneration", _paligemma, TYPED_CAPTION, "PaliGemmaConfig"),
    made("Qwen2VL", "Qwen2VLForConditionalGeneration", _qwen2, PATCHES_CAPTION, "Qwen2VLConfig"),
    made("Qwen2.5VL", "Qwen2_5_VLForConditionalGeneration", _qwen25, PATCHES_CAPTION, "Qwen2_5_VLConfig"),
    made("SmolVLM", "SmolVLMForConditionalGeneration", _smolvlm, FRAMES_CAPTION, "SmolVLMConfig"),
    made("CLIP", "CLIPModel", lambda: _two_towers("CLIP", projection_dim=16), PAIR, "CLIPConfig"),
    made("Siglip", "SiglipModel", lambda: _two_towers("Siglip"), PAIR, "SiglipConfig"),
    made("ViT and GPT2", "VisionEncoderDecoderModel", _encoder_decoder, CAPTIONED, "VisionEncoderDecoderConfig"),
)
