"""Orbax: JAX's checkpoints, given the state as NumPy arrays that share the tensors' memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.saves.methods.base import Method, load_into, state_of

if TYPE_CHECKING:
    import torch


class Orbax(Method):
    """`AsyncCheckpointer` with the standard handler."""

    name = "orbax"
    label = "Orbax, async"
    package = "orbax"

    def setup(self) -> None:
        """One checkpointer for the whole training."""
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._checkpointer: Any = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

    def save(self, step: int) -> None:
        """Copy, and leave the rest to its threads."""
        tree = {"weights": _arrays(state_of(self.trainer))}
        self._checkpointer.save(self.path(step).resolve(), args=self._ocp.args.StandardSave(tree))

    def wait(self, step: int) -> None:
        """The save before this call is complete."""
        self._checkpointer.wait_until_finished()

    def load(self, step: int) -> None:
        """`restore`, and into the objects; nothing is verified."""
        found = self._checkpointer.restore(self.path(step).resolve())
        state = _tensors(found["weights"])
        state["optimizer"]["state"] = {int(key): value for key, value in state["optimizer"]["state"].items()}
        load_into(self.trainer, state)

    def close(self) -> None:
        """End its threads."""
        self._checkpointer.close()


def _arrays(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return _array(value.detach())
    if isinstance(value, dict):
        return {str(key): _arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_arrays(item) for item in value]
    return value


def _array(tensor: torch.Tensor) -> Any:
    import torch

    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_tensors(item) for item in value]
    import torch

    if not hasattr(value, "dtype"):
        return value
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(value) if getattr(value, "ndim", 0) else torch.tensor(value.item())
