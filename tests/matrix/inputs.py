"""What a model is fed with: rows of a training set for each kind of architecture, and how they become a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

VOCABULARY = 64
IMAGE_TOKEN = 60
VISION_START = 59
LENGTH = 8
"""Tokens of a text."""
SIDE = 16
"""Pixels of an image, each way; four patches of 8 make one."""
FEATURES = 8
"""Bins of a spectrogram."""

Example = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Rows of one kind; `joined` are keys whose tensors are put one after another in place of stacked.

    `constant` goes into every batch as it is.
    """

    row: Callable[[torch.Generator], Example]
    joined: tuple[str, ...] = ()
    constant: dict[str, Any] = field(default_factory=dict)

    def rows(self, count: int, seed: int) -> list[Example]:
        """So many rows, the same for a seed."""
        generator = torch.Generator().manual_seed(seed)
        return [self.row(generator) for _ in range(count)]

    def batch(self, rows: list[Example]) -> Example:
        """A collator, which draws no random numbers."""
        found: Example = dict(self.constant)
        for key, first in rows[0].items():
            values = [row[key] for row in rows]
            if not isinstance(first, torch.Tensor):
                found[key] = values
            else:
                found[key] = torch.cat(values) if key in self.joined else torch.stack(values)
        return found


def _words(generator: torch.Generator, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(4, VISION_START, (length,), generator=generator)


def _class(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, (), generator=generator)


def _pixels(generator: torch.Generator, side: int = SIDE) -> torch.Tensor:
    return torch.randn(3, side, side, generator=generator)


def _text(generator: torch.Generator) -> Example:
    words = _words(generator)
    return {"input_ids": words, "labels": words}


def _text_class(generator: torch.Generator) -> Example:
    return {"input_ids": _words(generator), "labels": _class(generator)}


def _task(generator: torch.Generator) -> Example:
    return {**_text(generator), "task_ids": _class(generator)}


def _answer(generator: torch.Generator) -> Example:
    start, end = torch.randint(0, LENGTH, (2,), generator=generator)
    return {"input_ids": _words(generator), "start_positions": start, "end_positions": end}


def _token_classes(generator: torch.Generator) -> Example:
    return {"input_ids": _words(generator), "labels": torch.randint(0, 2, (LENGTH,), generator=generator)}


def _translation(generator: torch.Generator) -> Example:
    return {"input_ids": _words(generator), "labels": _words(generator, 5)}


def _image_class(generator: torch.Generator) -> Example:
    return {"pixel_values": _pixels(generator), "labels": _class(generator)}


def _large_image_class(generator: torch.Generator) -> Example:
    return {"pixel_values": _pixels(generator, 2 * SIDE), "labels": _class(generator)}


def _image(generator: torch.Generator) -> Example:
    return {"pixel_values": _pixels(generator)}


def _segments(generator: torch.Generator) -> Example:
    return {"pixel_values": _pixels(generator), "labels": torch.randint(0, 2, (SIDE, SIDE), generator=generator)}


def _boxes(generator: torch.Generator) -> Example:
    return {**_image_class(generator), "boxes": torch.rand(1, 4, generator=generator)}


def _speech_text(generator: torch.Generator) -> Example:
    return {
        "input_values": torch.randn(400, generator=generator),
        "labels": torch.randint(1, 30, (3,), generator=generator),
    }


def _speech_class(generator: torch.Generator) -> Example:
    return {"input_values": torch.randn(400, generator=generator), "labels": _class(generator)}


def _spectrogram_text(generator: torch.Generator) -> Example:
    return {"input_features": torch.randn(FEATURES, 16, generator=generator), "labels": _words(generator, 5)}


def _spectrogram_class(generator: torch.Generator) -> Example:
    return {"input_values": torch.randn(16, FEATURES, generator=generator), "labels": _class(generator)}


def _caption(generator: torch.Generator) -> Example:
    """A text with the tokens of one image of four patches."""
    words = torch.cat([torch.full((4,), IMAGE_TOKEN), _words(generator, 4)])
    labels = words.masked_fill(words == IMAGE_TOKEN, -100)
    return {"input_ids": words, "labels": labels, "pixel_values": _pixels(generator)}


def _typed_caption(generator: torch.Generator) -> Example:
    found = _caption(generator)
    return {**found, "token_type_ids": (found["input_ids"] == IMAGE_TOKEN).long()}


def _patches_caption(generator: torch.Generator) -> Example:
    """As Qwen's models want it: an image as a list of patches, of which four make one token."""
    words = torch.cat([torch.tensor([VISION_START, IMAGE_TOKEN]), _words(generator, 4)])
    return {
        "input_ids": words,
        "labels": words.masked_fill(words >= VISION_START, -100),
        "mm_token_type_ids": (words == IMAGE_TOKEN).long(),
        "pixel_values": torch.randn(4, 3 * 2 * 8 * 8, generator=generator),
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
    }


def _frames_caption(generator: torch.Generator) -> Example:
    """As Idefics's models want it: a list of images for each text, of which four patches make one token."""
    words = torch.cat([torch.tensor([IMAGE_TOKEN]), _words(generator, 5)])
    labels = words.masked_fill(words == IMAGE_TOKEN, -100)
    return {"input_ids": words, "labels": labels, "pixel_values": _pixels(generator)[None]}


def _pair(generator: torch.Generator) -> Example:
    return {"input_ids": _words(generator), "pixel_values": _pixels(generator)}


TEXT = Inputs(_text)
TASKS = Inputs(_task)
TEXT_CLASS = Inputs(_text_class)
TOKEN_CLASSES = Inputs(_token_classes)
ANSWER = Inputs(_answer)
TRANSLATION = Inputs(_translation)
IMAGE = Inputs(_image)
IMAGE_CLASS = Inputs(_image_class)
LARGE_IMAGE_CLASS = Inputs(_large_image_class)
SEGMENTS = Inputs(_segments)
BOXES = Inputs(_boxes)
SPEECH_TEXT = Inputs(_speech_text)
SPEECH_CLASS = Inputs(_speech_class)
SPECTROGRAM_TEXT = Inputs(_spectrogram_text)
SPECTROGRAM_CLASS = Inputs(_spectrogram_class)
CAPTION = Inputs(_caption)
TYPED_CAPTION = Inputs(_typed_caption)
PATCHES_CAPTION = Inputs(_patches_caption, joined=("pixel_values", "image_grid_thw"))
FRAMES_CAPTION = Inputs(_frames_caption)
PAIR = Inputs(_pair, constant={"return_loss": True})
CAPTIONED = Inputs(_caption)
