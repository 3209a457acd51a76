"""What every method of saving offers to a course."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

KEEP = 2
"""Checkpoints that stay on disk; older ones are removed by the method, or else by the harness in the background."""
PATIENCE = 300.0
"""Seconds after which a save that has not completed counts as failed."""


class Method:
    """One way to save the state of a trainer. A subclass says how; the course times it.

    `save` runs in the training thread, `wait` in the watcher's.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    package: ClassVar[str | None] = None
    """What must be importable."""
    keeps_two: ClassVar[bool] = False
    """True when the method removes old checkpoints itself."""
    loads: ClassVar[bool] = True
    verifies: ClassVar[bool] = False
    """True when loading checks every byte."""

    def __init__(self, trainer: Any, directory: Path) -> None:
        self.trainer = trainer
        self.directory = directory
        self.trainer_save: Callable[[], None] = lambda: None
        """The trainer's own save, for methods that only change what that does."""

    @classmethod
    def installed(cls) -> bool:
        """Whether this environment has what the method needs."""
        return cls.package is None or importlib.util.find_spec(cls.package) is not None

    def setup(self) -> None:
        """Once, before the training begins."""

    def save(self, step: int) -> None:
        """Save the present state, or begin to."""
        raise NotImplementedError

    def wait(self, step: int) -> None:
        """Return when the method holds the save of `step` for complete."""

    def path(self, step: int) -> Path:
        """The file or directory of a save."""
        return self.directory / f"checkpoint-{step}"

    def size(self, step: int) -> int | None:
        """Bytes of a save where its files do not tell; None where they do."""
        return None

    def held(self) -> float:
        """Seconds that the training was held outside of `save`, since this was last asked."""
        return 0.0

    def close(self) -> None:
        """After the training."""

    def load(self, step: int) -> None:
        """Bring the model, the optimizer and the scheduler of the trainer to the state of a save."""
        raise NotImplementedError


def state_of(trainer: Any) -> dict[str, Any]:
    """What peers save: the live tensors, by name. A tensor that has two names (tied weights) is there once."""
    return {
        "model": model_state(trainer.model),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
    }


def model_state(model: Any) -> dict[str, torch.Tensor]:
    """Weights by name: of the adapter alone where there is one, as the Hugging Face libraries save it."""
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(model)
    seen: set[int] = set()
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            found[name] = tensor
    return found


def load_model(model: Any, state: dict[str, Any]) -> None:
    """Put the weights of `model_state` back."""
    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, state)
    else:
        model.load_state_dict(state, strict=False)


def load_into(trainer: Any, state: dict[str, Any]) -> None:
    """Put what `state_of` gave back into a trainer."""
    load_model(trainer.model, state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.lr_scheduler.load_state_dict(state["scheduler"])


def state_bytes(trainer: Any) -> int:
    """Bytes of the tensors that a checkpoint must hold."""
    import torch

    moments = [t for state in trainer.optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    return sum(t.nbytes for t in [*model_state(trainer.model).values(), *moments])


def wait_for(path: Path) -> None:
    """Return when a path exists. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path.name} was not there after {PATIENCE:.0f} s")
        time.sleep(0.003)
