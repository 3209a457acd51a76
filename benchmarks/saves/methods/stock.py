"""No save at all, the stock Trainer's, and plain `torch.save`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.saves.methods.base import Method, load_into, load_model, state_of

if TYPE_CHECKING:
    import torch


class NoSave(Method):
    """The noise floor: the same training, and nothing is done where others save."""

    name = "none"
    label = "no save (noise floor)"
    loads = False

    def save(self, step: int) -> None:
        """Do nothing."""


class StockTrainer(Method):
    """`Trainer._save_checkpoint` as transformers has it: safetensors and `torch.save`, nothing synced."""

    name = "stock"
    label = "HF Trainer, stock"

    def save(self, step: int) -> None:
        """The trainer's own save."""
        self.trainer_save()

    def load(self, step: int) -> None:
        """The loaders of the stock files: safetensors and `torch.load`, without verification."""
        import torch

        path = self.path(step)
        load_model(self.trainer.model, _weights(path))
        self.trainer.optimizer.load_state_dict(torch.load(path / "optimizer.pt", weights_only=True))
        self.trainer.lr_scheduler.load_state_dict(torch.load(path / "scheduler.pt", weights_only=True))


class TorchSave(Method):
    """One `torch.save` of everything into one file."""

    name = "torch-save"
    label = "torch.save"

    def save(self, step: int) -> None:
        """Write the file."""
        import torch

        torch.save(state_of(self.trainer), self.path(step))

    def load(self, step: int) -> None:
        """Read the file, without verification."""
        import torch

        load_into(self.trainer, torch.load(self.path(step), weights_only=True))


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    names = ("model.safetensors", "adapter_model.safetensors")
    return load_file(next(path / name for name in names if (path / name).exists()))
