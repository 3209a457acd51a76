"""Stock writers run for their names and small files; what holds tensors is recorded, not written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import TrainerState

_SAVE_FILE = (
    ("safetensors.torch", "save_file"),
    ("transformers.modeling_utils", "safe_save_file"),
    ("peft.peft_model", "safe_save_file"),
)
"""Where stock writers look up `safetensors.torch.save_file`: module and name there."""
TORCH_FILES = frozenset({"optimizer.pt"})
"""Files of `torch.save` that hold tensors of the state; its others are small, and written as ever."""

Tensors = Mapping[str, torch.Tensor]


@dataclass(slots=True)
class Recorded:
    """What would have been written, by path.

    `safetensors` has tensors with the file's metadata, `torch` objects of `torch.save`, `small` bytes of small files.
    """

    safetensors: dict[Path, tuple[Tensors, Mapping[str, str] | None]] = field(default_factory=dict[Path, Any])
    torch: dict[Path, Any] = field(default_factory=dict[Path, Any])
    small: dict[Path, bytes] = field(default_factory=dict[Path, bytes])

    def move(self, old: Path, new: Path) -> None:
        """Let what was recorded below one directory belong to another."""
        self.safetensors = {new / path.relative_to(old): value for path, value in self.safetensors.items()}
        self.torch = {new / path.relative_to(old): value for path, value in self.torch.items()}
        self.small = {new / path.relative_to(old): value for path, value in self.small.items()}

    def write_small(self) -> None:
        """Write the small files where they belong."""
        for path, data in self.small.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@contextmanager
def recording() -> Iterator[Recorded]:
    """While it lasts, calls that would write the state's tensors are recorded; the trainer's own state is left out."""
    recorded = Recorded()
    stock_save = torch.save

    def save_file(tensors: Tensors, filename: Any, metadata: Mapping[str, str] | None = None) -> None:
        recorded.safetensors[Path(filename)] = (dict(tensors), metadata)

    def save(value: Any, target: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(target, (str, os.PathLike)) and Path(target).name in TORCH_FILES:
            recorded.torch[Path(target)] = value
        else:
            stock_save(value, target, *args, **kwargs)

    with ExitStack() as replaced:
        for module, name in _SAVE_FILE:
            if module in sys.modules:
                replaced.enter_context(patch.object(sys.modules[module], name, save_file))
        replaced.enter_context(patch.object(torch, "save", save))
        # It names the best checkpoint, which the stock writer takes for another one: it is written afterwards.
        replaced.enter_context(patch.object(TrainerState, "save_to_json", lambda state, path: None))
        yield recorded
