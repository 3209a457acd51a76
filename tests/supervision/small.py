"""A stock Trainer of 6 steps that imports as little as one can."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed


def trainer(out: str, kind: type[Trainer] = Trainer, **callbacks: Any) -> Trainer:
    """A trainer that saves every two steps; `callbacks` as the Trainer takes them."""
    set_seed(5)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, max_position_embeddings=32, **sizes))
    rows = [[(7 * row + place) % 60 for place in range(8)] for row in range(24)]
    args = TrainingArguments(
        out, max_steps=6, save_steps=2, logging_steps=1, per_device_train_batch_size=4, use_cpu=True, report_to="none",
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    data: Any = [{"input_ids": row, "labels": row} for row in rows]
    return kind(model=model, args=args, train_dataset=data, **callbacks)
