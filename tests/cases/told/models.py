"""Models that are saved under other names, and models with buffers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    ViTConfig,
    ViTForImageClassification,
)

from tests.cases.parts import trainer
from tests.cases.situation import Situation

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


class Pictures(torch.utils.data.Dataset):
    """Random pictures of 16 by 16, each with one of three labels."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.pixels = torch.randn(count, 3, 16, 16, generator=generator)
        self.labels = torch.randint(0, 3, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def seeing(model: Callable[[], Any]) -> Callable[[Path], Trainer]:
    """A classifier of pictures; the most accurate loads at the end."""

    def build(out: Path) -> Trainer:
        torch.manual_seed(0)
        return trainer(
            out, model=model(), rows=Pictures(18, 1), held_out=Pictures(6, 2), collator=None, save_total_limit=2,
            parts={"compute_metrics": accuracy}, metric_for_best_model="accuracy", load_best_model_at_end=True,
            remove_unused_columns=False,
        )  # fmt: skip

    return build


def vit() -> Any:
    return ViTForImageClassification(
        ViTConfig(**SMALL, image_size=16, patch_size=8, num_labels=3, hidden_dropout_prob=0.1)
    )


def resnet() -> Any:
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=3)
    )


def speaking(model: Callable[[], Any]) -> Callable[[Path], Trainer]:
    """The small trainer around another language model."""

    def build(out: Path) -> Trainer:
        torch.manual_seed(0)
        return trainer(out, model=model())

    return build


def mixtral() -> Any:
    return MixtralForCausalLM(
        MixtralConfig(
            **SMALL,
            vocab_size=64,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            attention_dropout=0.1,
        )
    )


def bart() -> Any:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=64,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    )


SITUATIONS = (
    Situation("ResNet", "a vision model with BatchNorm's buffers", seeing(resnet)),
    Situation("ViT", "a vision model whose weights are saved under other names", seeing(vit)),
    Situation("Mixtral", "a mixture of experts whose weights are saved under other names", speaking(mixtral)),
    Situation("BART", "an encoder and a decoder that share their embeddings", speaking(bart)),
)
