"""Models as most are fine-tuned: loaded from files, of the same class or of one without a head."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import peft
import torch
import transformers

from tests.matrix.inputs import CAPTION, IMAGE_CLASS, SPEECH_TEXT, TEXT, TEXT_CLASS, TRANSLATION, Inputs
from tests.matrix.subject import Subject
from tests.matrix.subjects.adapters import LORA, TASK
from tests.matrix.subjects.encoder_decoder import T5
from tests.matrix.subjects.image_text import llava
from tests.matrix.subjects.making import DECODER, ENCODER, EXPERTS, VISION, config
from tests.matrix.subjects.speech import WAVES


def from_files(model: str, base: str, settings: Any, **options: Any) -> Any:
    """A model loaded from files that one of class `base` was saved to."""
    with TemporaryDirectory() as directory:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            getattr(transformers, base)(settings).save_pretrained(directory)
        return getattr(transformers, model).from_pretrained(directory, **options)


def _loaded(
    name: str,
    model: str,
    settings: str,
    sizes: dict[str, Any],
    inputs: Inputs = TEXT,
    *,
    base: str = "",
    **options: Any,
) -> Subject:
    def build(first: bool) -> Any:
        return from_files(model, base or model, config(settings, **sizes), **options)

    needs = tuple(f"transformers.{one}" for one in (model, settings, base) if one)
    return Subject(f"{name}, loaded", build, inputs, needs)


def _llava(first: bool) -> Any:
    return from_files("LlavaForConditionalGeneration", "LlavaForConditionalGeneration", llava())


def _adapted(first: bool) -> Any:
    sizes = {**DECODER, **EXPERTS}
    base = from_files("MixtralForCausalLM", "MixtralForCausalLM", config("MixtralConfig", **sizes))
    return peft.get_peft_model(base, peft.LoraConfig(**TASK, **LORA))


LOADED = (
    _loaded("Llama", "LlamaForCausalLM", "LlamaConfig", DECODER),
    _loaded("Llama, bf16", "LlamaForCausalLM", "LlamaConfig", DECODER, dtype=torch.bfloat16),
    _loaded("Llama from one without a head", "LlamaForCausalLM", "LlamaConfig", DECODER, base="LlamaModel"),
    _loaded("GPTNeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", DECODER),
    _loaded("Mixtral", "MixtralForCausalLM", "MixtralConfig", {**DECODER, **EXPERTS}),
    _loaded("Mixtral, bf16", "MixtralForCausalLM", "MixtralConfig", {**DECODER, **EXPERTS}, dtype=torch.bfloat16),
    _loaded(
        "Mixtral from one without a head", "MixtralForCausalLM", "MixtralConfig", {**DECODER, **EXPERTS},
        base="MixtralModel",
    ),
    _loaded("Qwen3Moe", "Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**DECODER, **EXPERTS, "head_dim": 8}),
    _loaded(
        "Bert from one without a head", "BertForSequenceClassification", "BertConfig", ENCODER, TEXT_CLASS,
        base="BertModel",
    ),
    _loaded(
        "ViT from one without a head", "ViTForImageClassification", "ViTConfig", VISION, IMAGE_CLASS, base="ViTModel"
    ),
    _loaded("T5", "T5ForConditionalGeneration", "T5Config", T5, TRANSLATION),
    _loaded(
        "Wav2Vec2 from one without a head", "Wav2Vec2ForCTC", "Wav2Vec2Config", WAVES, SPEECH_TEXT,
        base="Wav2Vec2Model",
    ),
    Subject("Llava, loaded", _llava, CAPTION, ("transformers.LlavaConfig",)),
    Subject("LoRA on Mixtral, loaded", _adapted, TEXT, ("transformers.MixtralConfig", "peft.LoraConfig")),
)  # fmt: skip
