"""The files of an unchanged tokenizer: written by it once, from memory ever after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from transformers import PreTrainedTokenizerBase


class TokenizerFiles:
    """Serializing a vocabulary of 100,000 words takes a tenth of a second; a fine-tuning hardly ever changes it."""

    def __init__(self) -> None:
        self._mark: tuple[Any, ...] | None = None
        self._files: dict[Path, bytes] = {}

    def reused(self, trainer: Any, files: dict[Path, bytes]) -> AbstractContextManager[None]:
        """While it lasts, the trainer's tokenizer, if it is as it was, puts its files into `files` instead of writing.

        `files` takes bytes by absolute path. A tokenizer without a fast backend writes as ever.
        """
        tokenizer = getattr(trainer, "processing_class", None)
        if not isinstance(tokenizer, PreTrainedTokenizerBase) or not getattr(tokenizer, "is_fast", False):
            return nullcontext()
        return self._serving(tokenizer, files)

    @contextmanager
    def _serving(self, tokenizer: Any, files: dict[Path, bytes]) -> Iterator[None]:
        stock = tokenizer.save_pretrained

        def save_pretrained(save_directory: Any, *args: Any, **kwargs: Any) -> Any:
            directory = Path(save_directory)
            mark = None if args or kwargs else _mark(tokenizer)
            if mark is not None and mark == self._mark:
                files.update({directory / name: data for name, data in self._files.items()})
                return tuple(str(directory / name) for name in self._files)
            before = _files_below(directory)
            written = stock(save_directory, *args, **kwargs)
            new = _files_below(directory) - before
            self._mark, self._files = mark, {path.relative_to(directory): path.read_bytes() for path in new}
            return written

        with patch.object(tokenizer, "save_pretrained", save_pretrained):
            yield


def _mark(tokenizer: Any) -> tuple[Any, ...]:
    """What is equal as long as the tokenizer would write the same files."""
    backend = tokenizer.backend_tokenizer
    return (
        id(tokenizer), len(tokenizer), tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length,
        repr(tokenizer.init_kwargs), repr(tokenizer.special_tokens_map), repr(tokenizer.chat_template),
        repr(tokenizer.added_tokens_decoder), repr(backend.truncation), repr(backend.padding),
    )  # fmt: skip


def _files_below(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file()}
