"""The mean loss per token of a causal language model on a text, in blocks of a fixed length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from keepstep.errors import SettingsError
from keepstep.integrations.transformers.exporting.models import quiet
from keepstep.layout import NOT_JSON
from keepstep.operations.export.errors import ExportRefused

BLOCK = 512
"""Tokens of one block at most; less where the model takes less."""


class TokenLoss:
    """Evaluates models on one file: the mean negative log likelihood of all tokens but the first of each block.

    Several texts are joined, with the end-of-text token behind each where there is one, and cut into blocks of 512
    tokens (or as many as the model takes), without overlap; the rest at the end is a block too. Natural logarithms of
    probabilities in fp32; lower is better.
    """

    def __init__(self, data: Path, tokenizer_in: Path) -> None:
        self.name = data.name
        texts = _texts(data)
        tokenizer = _tokenizer(tokenizer_in)
        self._ids = _tokens(texts, tokenizer)
        if len(self._ids) < 2:
            raise SettingsError(f"{data} holds {len(self._ids)} tokens, and a loss needs two")

    def __call__(self, model: Any) -> float:
        """The loss of a model. Raises ExportRefused where it is no causal language model."""
        length = min(BLOCK, int(getattr(model.config, "max_position_embeddings", None) or BLOCK))
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        if max(self._ids) >= vocabulary:
            raise ExportRefused(
                f"the tokenizer has tokens that the model does not know: {vocabulary} rows of embeddings"
            )
        total, count = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(self._ids), length):
                block = torch.tensor([self._ids[start : start + length]])
                if block.shape[1] < 2:
                    continue
                logits = getattr(model(input_ids=block), "logits", None)
                if logits is None or logits.dim() != 3:
                    raise ExportRefused(
                        "a loss per token needs a causal language model", hint="Give evaluate= in Python."
                    )
                found = torch.nn.functional.cross_entropy(logits[0, :-1].float(), block[0, 1:], reduction="sum")
                total, count = total + float(found), count + block.shape[1] - 1
        return total / count

    @property
    def describes(self) -> str:
        """What the value is."""
        return f"mean loss per token on {self.name} ({len(self._ids):,} tokens)"


def _texts(data: Path) -> list[Any]:
    """Texts, or conversations, of a file. Raises SettingsError."""
    try:
        content = data.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{data} is no text in UTF-8") from error
    except OSError as error:
        raise SettingsError(f"{data} can't be read: {error.strerror or error}") from error
    if data.suffix not in (".jsonl", ".json"):
        return [content]
    return [_row(data, number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]


def _row(data: Path, number: int, line: str) -> Any:
    try:
        row = json.loads(line)
    except NOT_JSON as error:
        raise SettingsError(f"{data}, line {number} is no JSON") from error
    if isinstance(row, dict):
        if isinstance(row.get("text"), str):
            return row["text"]
        if isinstance(row.get("messages"), list):
            return row["messages"]
        if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
            return row["prompt"] + row["completion"]
    raise SettingsError(
        f"{data}, line {number} has no text", hint="A line has text, messages, or prompt and completion."
    )


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ExportRefused(
            "the checkpoint holds no tokenizer to read the eval data with",
            hint="Train with processing_class=tokenizer, or give evaluate= in Python.",
        ) from error


def _tokens(texts: list[Any], tokenizer: Any) -> list[int]:
    ids: list[int] = []
    with quiet():
        for text in texts:
            if isinstance(text, str):
                ids += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
                ids += [tokenizer.eos_token_id] if len(texts) > 1 and tokenizer.eos_token_id is not None else []
            else:
                ids += tokenizer(tokenizer.apply_chat_template(text, tokenize=False), add_special_tokens=False)[
                    "input_ids"
                ]
    return ids
