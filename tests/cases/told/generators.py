"""Generators of one's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from tests.cases.parts import trainer
from tests.cases.situation import Situation
from tests.training import tiny


class Masks:
    """A collator that masks words, by numbers of a generator that it holds."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = tiny.pad(rows)
        ids = batch["input_ids"]
        batch["input_ids"] = ids.masked_fill(self.draw(ids.shape) < 0.3, 3)
        return batch

    def draw(self, shape: torch.Size) -> torch.Tensor:
        raise NotImplementedError


class MasksByNumpy(Masks):
    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def draw(self, shape: torch.Size) -> torch.Tensor:
        return torch.tensor(self.generator.random(tuple(shape)))


class MasksByTorch(Masks):
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, shape: torch.Size) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator)


class MasksByPython(Masks):
    def __init__(self) -> None:
        self.generator = random.Random(0)

    def draw(self, shape: torch.Size) -> torch.Tensor:
        return torch.tensor([self.generator.random() for _ in range(shape.numel())]).view(shape)


class Rows(torch.utils.data.Dataset):
    """Rows whose first word is drawn anew each time."""

    def __init__(self) -> None:
        self.rows = tiny.sentences(18, seed=1)
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": [int(self.generator.integers(4, 60)), *self.rows[index][1:]]}


def masking(kind: type[Masks]) -> Callable[[Path], Trainer]:
    """The small trainer, its words masked."""
    return lambda out: trainer(out, collator=kind())


SITUATIONS = (
    Situation("a collator with numpy's generator", "np.random.default_rng in the collator", masking(MasksByNumpy)),
    Situation("a collator with torch's generator", "torch.Generator in the collator", masking(MasksByTorch)),
    Situation("a collator with Python's generator", "random.Random in the collator", masking(MasksByPython)),
    Situation(
        "a data set with a generator",
        "rows that are drawn anew each time they are asked for",
        lambda out: trainer(out, rows=Rows()),
    ),
)
