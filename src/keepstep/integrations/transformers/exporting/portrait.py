"""What a model is, in few bytes: a digest of each tensor, and its output for fixed tokens."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import xxhash

from keepstep.integrations.transformers.exporting.models import first_line
from keepstep.operations.export.report import Forward

TOKENS = 24
ALIGNED = 64
"""Bytes; from there on every kernel takes the same path, so that equal tensors give equal outputs."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """A loaded model. `digests` by name; `outputs` in fp32, None where no forward pass was possible: `why`.

    `memory` says how it compares with what was in memory when its checkpoint was saved.
    """

    digests: dict[str, str]
    outputs: torch.Tensor | None
    why: str = ""
    memory: str = ""


def portray(model: Any) -> Portrait:
    """The portrait of a model in evaluation mode."""
    with torch.no_grad():
        digests = {name: digest(tensor) for name, tensor in model.state_dict().items()}
        try:
            return Portrait(digests, outputs_of(model))
        except Exception as error:  # models take inputs of all kinds; what this one takes is not known here
            return Portrait(digests, None, f"a forward pass on token ids ({type(error).__name__}: {first_line(error)})")


def digest(tensor: torch.Tensor) -> str:
    """128 bits of a tensor's dtype, shape and bytes."""
    state = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    flat = tensor.detach().cpu().contiguous().flatten()
    if flat.numel():
        state.update(flat.view(torch.uint8).numpy().data)
    return state.hexdigest()


def outputs_of(model: Any) -> torch.Tensor:
    """Logits, or the last hidden state, of fixed token ids, in fp32."""
    _align(model)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.tensor([[(7 * place * place + 3 * place + 5) % vocabulary for place in range(TOKENS)]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(model.config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = ids
    accepted = inspect.signature(model.forward).parameters
    known = {name: value for name, value in given.items() if name in accepted or "kwargs" in accepted}
    found = model(**known)
    value = getattr(found, "logits", None)
    value = found[0] if value is None else value
    return value.detach().float()


def compare(source: torch.Tensor, exported: torch.Tensor, *, relative: float | None) -> Forward:
    """The difference of two outputs. `relative` is what may differ, as a part of the largest output; None: no bound."""
    if source.shape != exported.shape:
        return Forward(TOKENS, float("inf"), float(source.abs().max()), 0.0, 0.0)
    largest = float(source.abs().max())
    same = (source == exported) | (source.isnan() & exported.isnan())
    difference = 0.0 if bool(same.all()) else float((source - exported).abs().max())
    choices = float((source.argmax(-1) == exported.argmax(-1)).float().mean())
    return Forward(TOKENS, difference, largest, None if relative is None else relative * largest, choices)


def _align(model: Any) -> None:
    for parameter in model.parameters():
        if parameter.data_ptr() % ALIGNED:
            parameter.data = parameter.data.clone()
