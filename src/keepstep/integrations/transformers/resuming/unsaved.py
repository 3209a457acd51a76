"""What trains and is in none of a checkpoint's files: put back by others, no loss, or a reason to refuse the resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from keepstep.engine import Mark, Marks, mark_of
from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.resuming.trained import trained
from keepstep.integrations.transformers.resuming.watched import bare_optimizer
from keepstep.integrations.transformers.setup.messages import listed
from keepstep.run import Exactness, Reason

HINT = (
    "Stock writers leave that out. Put it back in a callback's on_train_begin, or in a _load_from_checkpoint of the "
    "trainer's own class; or start a new run from the weights that are there."
)


class Unsaved:
    """Tensors of a model that no file of the checkpoint has, as the loader left them.

    `saved` are marks of what they were at the save, where these are known.
    """

    def __init__(self, trainer: Any, directory: Path, names: list[str], saved: Marks) -> None:
        self._trainer = trainer
        self._directory = directory
        self._saved = saved
        live = trained(trainer.model)
        self._begun = {name: _mark(live[name]) for name in names if name in live}

    def judge(self) -> Iterator[Reason]:
        """Once all callbacks have heard of the begin: why the resume is not exact for them.

        One that has the values of the save by now is no matter. Raises ResumeRefused, with the share of values and the
        names, for parameters that the optimizer has trained, and that are still as the script built them.
        """
        live = trained(self._trainer.model)
        now = {name: _mark(live[name]) for name in self._begun if name in live}
        left = [name for name, mark in now.items() if mark is None or mark != self._saved.get(name)]
        given = [name for name in left if now[name] != self._begun[name]]
        untouched = [name for name in left if name not in given and not self._has_trained(live[name])]
        lost = [name for name in left if name not in {*given, *untouched}]
        if lost:
            raise refusal(self._directory, lost, live)
        if given:
            yield _reason(given, "in none of its files; something else has put values there, which are not compared")
        if untouched:
            yield _reason(untouched, "in none of its files, and no gradient has changed it: as the script built it")

    def _has_trained(self, tensor: torch.Tensor) -> bool:
        """True unless it is known that no step has changed a tensor, or it follows from the batches alone.

        Running statistics begin anew and find their values again; a parameter that never had a gradient has no moments.
        """
        if not isinstance(tensor, torch.nn.Parameter):
            return False
        state: Any = getattr(bare_optimizer(self._trainer), "state", None)
        return not isinstance(state, Mapping) or not state or bool(state.get(tensor))


def refusal(directory: Path, lost: list[str], live: Mapping[str, torch.Tensor]) -> ResumeRefused:
    """The error for tensors that can't be put back; `live` are all that train."""
    return ResumeRefused(f"{directory} does not hold all that trains in this model: {text_of(lost, live)}", hint=HINT)


def text_of(lost: list[str], live: Mapping[str, torch.Tensor]) -> str:
    """What no file holds, with its share of all that trains, in words."""
    everything = sum(tensor.numel() for tensor in live.values())
    values = sum(live[name].numel() for name in lost if name in live)
    count = "1 tensor is" if len(lost) == 1 else f"{len(lost)} tensors are"
    share = f" ({values / everything:.1%} of the values that train)" if everything else ""
    return f"{count} in none of its files{share}: {listed(lost)}"


def _reason(names: list[str], text: str) -> Reason:
    count = "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
    return Reason(Exactness.APPROXIMATE, f"model: {count} {text}: {listed(names)}")


def _mark(tensor: torch.Tensor) -> Mark | None:
    """Its mark; None for one that has no bytes in a row."""
    try:
        return mark_of(tensor)
    except (ValueError, TypeError, RuntimeError, NotImplementedError):
        return None
