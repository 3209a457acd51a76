"""Optimizers: kinds of them, other types of parameters, and states that do not fit the model of the resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from tests.matrix.inputs import TEXT, VOCABULARY
from tests.matrix.subject import Subject
from tests.matrix.subjects.making import DECODER, config
from tests.matrix.verdict import Verdict

SAVED = "checkpoint-2"


def llama(**sizes: Any) -> Any:
    """A Llama of two layers."""
    return transformers.LlamaForCausalLM(config("LlamaConfig", **{**DECODER, **sizes}))


class Heads(nn.Module):
    """A module of the user's, whose parts are registered in the order of `names`."""

    def __init__(self, names: str) -> None:
        super().__init__()
        inner = {"a": lambda: nn.Linear(VOCABULARY, VOCABULARY), "b": lambda: nn.Linear(VOCABULARY, VOCABULARY)}
        self.inner = llama(num_hidden_layers=1)
        for name in names:
            self.add_module(name, inner[name]())

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.inner(input_ids=input_ids).logits
        logits = self.get_submodule("a")(logits) * self.get_submodule("b")(logits).sigmoid()
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}


def _by(name: str, make: Callable[[Any], Optimizer], *, half: bool = False, **more: Any) -> Subject:
    """A training with an optimizer that the script makes itself."""

    def build(first: bool) -> Any:
        return llama().to(torch.bfloat16) if half else llama()

    needs = more.pop("needs", ())
    return Subject(name, build, TEXT, needs, optimizer=lambda model, first: make(model.parameters()), **more)


def _named(name: str, word: str, *, half: bool = False) -> Subject:
    """A training with an optimizer that `TrainingArguments` names."""

    def build(first: bool) -> Any:
        return llama().to(torch.bfloat16) if half else llama()

    return Subject(name, build, TEXT, arguments={"optim": word})


class Rewriting(TrainerCallback):
    """A callback that rewrites the optimizer's file of a checkpoint while it is saved."""

    def rewrite(self, states: dict[int, dict[str, torch.Tensor]]) -> None:
        raise NotImplementedError

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "optimizer.pt"
        found = torch.load(path, weights_only=True)
        self.rewrite(found["state"])
        torch.save(found, path)


class Swapping(Rewriting):
    """Two states of one shape are swapped."""

    def rewrite(self, states: dict[int, dict[str, torch.Tensor]]) -> None:
        shapes = [(number, one["exp_avg"].shape) for number, one in states.items()]
        first, second = next((a, b) for a, shape in shapes for b, other in shapes if a < b and shape == other)
        states[first], states[second] = states[second], states[first]


class Misshaping(Rewriting):
    """Two states of different shapes are swapped."""

    def rewrite(self, states: dict[int, dict[str, torch.Tensor]]) -> None:
        shapes = [(number, one["exp_avg"].shape) for number, one in states.items()]
        first, second = next((a, b) for a, shape in shapes for b, other in shapes if a < b and shape != other)
        states[first], states[second] = states[second], states[first]


class Scaling(Rewriting):
    """One state is scaled by a little."""

    def rewrite(self, states: dict[int, dict[str, torch.Tensor]]) -> None:
        states[0]["exp_avg"].mul_(1 + 2**-7)


def _unfrozen(first: bool) -> Any:
    """The first layer trains in the later life alone."""
    model = llama()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not first or ".layers.0." not in name)
    return model


def _groups(model: nn.Module, first: bool) -> Optimizer:
    """Two groups, of which the later life has the first second."""
    parameters = dict(model.named_parameters())
    head = [parameter for name, parameter in parameters.items() if "lm_head" in name]
    rest = [parameter for name, parameter in parameters.items() if "lm_head" not in name]
    slow, fast = {"params": rest, "lr": 1e-3}, {"params": head, "lr": 1e-2}
    return torch.optim.AdamW([slow, fast] if first else [fast, slow])


def _one_group_reversed(model: nn.Module, first: bool) -> Optimizer:
    parameters = list(model.parameters())
    return torch.optim.AdamW(parameters if first else parameters[::-1], lr=1e-2)


REFUSED = (Verdict.REFUSED,)
EITHER = (Verdict.EXACT, Verdict.REFUSED)
SAID = (*EITHER, Verdict.LABELLED)
MUON = ("torch.optim.Muon",)
NORMLESS = {"max_grad_norm": 0.0}
"""The norm of all gradients is a sum in the order of the parameters."""

OPTIMIZERS = (
    _named("AdamW, fused", "adamw_torch_fused"),
    _named("SGD", "sgd"),
    _named("RMSprop", "rmsprop"),
    _named("Adagrad", "adagrad"),
    _named("Adafactor of transformers", "adafactor"),
    _named("Adafactor of transformers, bf16", "adafactor", half=True),
    _named("AdamW, bf16", "adamw_torch", half=True),
    _by("Adafactor of torch", lambda p: torch.optim.Adafactor(p, lr=1e-2)),
    _by("Adafactor of torch, bf16", lambda p: torch.optim.Adafactor(p, lr=1e-2), half=True),
    _by("NAdam", lambda p: torch.optim.NAdam(p, lr=1e-2)),
    _by("NAdam, bf16", lambda p: torch.optim.NAdam(p, lr=1e-2), half=True),
    _by("ASGD", lambda p: torch.optim.ASGD(p, lr=1e-2)),
    _by("ASGD, bf16", lambda p: torch.optim.ASGD(p, lr=1e-2), half=True),
    _by("RAdam, bf16", lambda p: torch.optim.RAdam(p, lr=1e-2), half=True),
    _by("Adamax, bf16", lambda p: torch.optim.Adamax(p, lr=1e-2), half=True),
    _by("Rprop, bf16", lambda p: torch.optim.Rprop(p, lr=1e-2), half=True),
    _by("AMSGrad", lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True)),
    _by("Muon, of matrices alone", lambda p: torch.optim.Muon([one for one in p if one.ndim == 2]), needs=MUON),
    Subject(
        "modules registered in another order", lambda first: Heads("ab" if first else "ba"), TEXT, arguments=NORMLESS,
        wants=EITHER,
    ),
    Subject(
        "parameters in another order", lambda first: llama(), TEXT, optimizer=_one_group_reversed, arguments=NORMLESS,
        wants=EITHER, fragile=True,
    ),
    Subject(
        "groups in another order", lambda first: llama(), TEXT, optimizer=_groups, arguments=NORMLESS,
        wants=SAID, fragile=True,
    ),
    Subject("another layer trains", _unfrozen, TEXT, wants=REFUSED, fragile=True),
    Subject(
        "other sizes at the resume", lambda first: llama(intermediate_size=24 if first else 32), TEXT,
        wants=REFUSED, fragile=True,
    ),
    Subject(
        "two states swapped in the file", lambda first: llama(), TEXT, saboteurs=(Swapping,), wants=SAID
    ),
    Subject(
        "states of other shapes in the file", lambda first: llama(), TEXT, saboteurs=(Misshaping,),
        wants=EITHER, fragile=True,
    ),
    Subject("a state scaled in the file", lambda first: llama(), TEXT, saboteurs=(Scaling,), wants=SAID),
)  # fmt: skip
