"""What is saved of the model: an adapter or everything, and whether it can be saved at all."""

from __future__ import annotations

from keepstep.operations.doctor.facts import Facts
from keepstep.operations.doctor.found import Found
from keepstep.operations.doctor.rules.writing import FILES, SCRIPT, TRAINER, YAML, rule


@rule(
    "W601",
    "a LoRA run that saves the base model",
    why="Every checkpoint then holds the whole model instead of a few megabytes of adapter; and where the adapter is "
    "not used at all, all weights are trained.",
    fix="Give the config to the trainer (peft_config=...), or train what get_peft_model returns; in YAML, set "
    "use_peft: true.",
    sources=frozenset({SCRIPT, YAML, TRAINER}),
)
def adapter_lost(facts: Facts) -> Found | None:
    """LoRA settings are there, but the model that is trained is not a PeftModel."""
    if not facts.model.lost_adapter:
        return None
    return Found(facts.model.lost_adapter, where=facts.at(facts.model.lost_adapter_line))


@rule(
    "W602",
    "a model loaded from GGUF may not be saved",
    why="transformers 5.23 keeps GGUF weights in their blocks where it has kernels for that, and save_pretrained then "
    "raises ValueError: the first save ends the training. Such weights can't be trained either.",
    fix="Load the original weights; or dequantize: quantization_config=GgufConfig(dequantize=True).",
    sources=FILES,
)
def gguf(facts: Facts) -> Found | None:
    """A model is loaded with `gguf_file=`, and the training saves."""
    if not facts.model.gguf or not facts.saves:
        return None
    return Found(f"the model is loaded from {facts.model.gguf}", where=facts.at(facts.model.gguf_line))
