"""A line of the matrix before it is played: what trains, on what, and what is to come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from tests.matrix.inputs import Inputs
from tests.matrix.verdict import Verdict


@dataclass(frozen=True)
class Subject:
    """What one row trains.

    `build` makes the model; it is told whether this is the first life of the training or a later one, and is called
    with another seed in each. `needs` are names of libraries, with the attributes that must be there
    ("transformers.OlmoeConfig"). `optimizer` makes an optimizer for the model in place of the Trainer's; it is told the
    same. `callbacks` are of every life, `saboteurs` of the first alone. `killed` is True where the first life ends by
    SIGKILL, `fragile` where a resume may end the process that it is in: either has one of its own. `wants` are the
    verdicts that are right.
    """

    name: str
    build: Callable[[bool], Any]
    inputs: Inputs
    needs: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Callable[[nn.Module, bool], Optimizer] | None = None
    callbacks: tuple[type[TrainerCallback], ...] = ()
    saboteurs: tuple[type[TrainerCallback], ...] = ()
    wants: tuple[Verdict, ...] = (Verdict.EXACT,)
    killed: bool = False
    fragile: bool = False

    def missing(self) -> str | None:
        """What it needs and these libraries lack; None where all is there."""
        for name in self.needs:
            module, _, attribute = name.rpartition(".")
            try:
                getattr(import_module(module), attribute)
            except (ImportError, AttributeError):
                return name
        return None
