"""Models in other ways: compiled, in parts, in a module of the user's own, in other files and other types."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.matrix.inputs import TEXT, VOCABULARY
from tests.matrix.subject import Subject
from tests.matrix.subjects.making import DECODER, EXPERTS, config


def mixtral(kind: type | None = None, **sizes: Any) -> Any:
    """A mixture of experts, whose files are called otherwise than what is in memory."""
    return (kind or transformers.MixtralForCausalLM)(config("MixtralConfig", **DECODER, **EXPERTS, **sizes))


def neox(**sizes: Any) -> Any:
    """A model whose files are called otherwise, and are else as in memory."""
    return transformers.GPTNeoXForCausalLM(config("GPTNeoXConfig", **DECODER, **sizes))


class Sharding(transformers.MixtralForCausalLM):
    """It saves itself in many files."""

    def save_pretrained(self, *args: Any, **settings: Any) -> Any:
        return super().save_pretrained(*args, **{**settings, "max_shard_size": "8KB"})


class Scaled(transformers.MixtralForCausalLM):
    """A class of the user's script, with a head and a buffer of its own."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.scale = nn.Linear(VOCABULARY, 1)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = super().forward(*args, **kwargs)
        seen: Any = self.seen
        seen.add_(1)
        found["loss"] = found["loss"] + self.scale(found["logits"]).square().mean()
        return found


class Holding(nn.Module):
    """A module of the user's own around a model of the library's, with a head beside it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.head = nn.Linear(VOCABULARY, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.inner(input_ids=input_ids).logits)
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}


def _resized(model: Any) -> Any:
    model.resize_token_embeddings(VOCABULARY + 6, mean_resizing=False)
    return model


def _frozen(model: Any) -> Any:
    """The first layer and the embeddings do not train, and are the same in every life: those of the base model."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for name, parameter in model.named_parameters():
            if "embed" in name or ".layers.0." in name:
                parameter.requires_grad_(False)
                nn.init.normal_(parameter, std=0.02)
    return model


def _normed(model: Any) -> Any:
    weight_norm(model.model.layers[0].self_attn.q_proj)
    return model


def _compiled_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def _subject(name: str, build: Any, **more: Any) -> Subject:
    return Subject(name, lambda first: build(), TEXT, ("transformers.MixtralConfig",), **more)


SETTINGS = (
    _subject("Mixtral, torch.compile", lambda: torch.compile(mixtral(), backend="eager")),
    _subject("Mixtral, compiled in place", lambda: _compiled_in_place(mixtral())),
    _subject("Mixtral, gradient checkpointing", mixtral, arguments={"gradient_checkpointing": True}),
    _subject("Mixtral, gradient accumulation", mixtral, arguments={"gradient_accumulation_steps": 2}),
    _subject("Mixtral, bf16", lambda: mixtral().to(torch.bfloat16)),
    _subject("Mixtral, bf16 mixed precision", mixtral, arguments={"bf16": True}),
    _subject("Mixtral, many files", lambda: mixtral(Sharding)),
    _subject("Mixtral, resized embeddings", lambda: _resized(mixtral())),
    _subject("Mixtral, partly frozen", lambda: _frozen(mixtral())),
    _subject("Mixtral, weight norm", lambda: _normed(mixtral())),
    _subject("Mixtral, a class of the user's", lambda: mixtral(Scaled)),
    _subject("Mixtral in a module of the user's", lambda: Holding(mixtral())),
    _subject("GPTNeoX, torch.compile", lambda: torch.compile(neox(), backend="eager")),
    _subject("GPTNeoX, bf16", lambda: neox().to(torch.bfloat16)),
    _subject("GPTNeoX, resized embeddings", lambda: _resized(neox())),
    _subject("GPTNeoX in a module of the user's", lambda: Holding(neox())),
)
