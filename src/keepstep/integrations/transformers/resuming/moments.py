"""What an optimizer knows of each parameter, as its file has it: torch asks for no shapes, and rounds what it takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.resuming.watched import bare_optimizer, named_parameters_of, numbers_in
from keepstep.integrations.transformers.setup.messages import listed

ELEMENTWISE = frozenset(
    {
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "grad_avg"),  # Adam, AdamW, NAdam, Adamax, Lion
        *("momentum_buffer", "square_avg", "acc_delta", "sum", "prev", "step_size", "ax"),  # SGD, RMSprop, Adagrad, ...
    }
)
"""Keys of states of torch's optimizers that have a value for each of their parameter's."""


@contextmanager
def loads_of(trainer: Any) -> Iterator[list[Mapping[str, Any]]]:
    """While it lasts, each state that the trainer's optimizer loads is added to what is yielded, as it is in the file.

    Raises ResumeRefused, from within that load, for a state of another shape than its parameter: the first step would
    end in numbers that are none, or the process. Optimizers that are none of torch's are not heard.
    """
    loads: list[Mapping[str, Any]] = []
    optimizer = bare_optimizer(trainer)
    if not isinstance(optimizer, torch.optim.Optimizer):
        yield loads
        return

    def hear(_: Any, state: dict[str, Any]) -> None:
        _refuse_shapes(trainer, state)
        loads.append(state)

    hook = optimizer.register_load_state_dict_pre_hook(hear)
    try:
        yield loads
    finally:
        hook.remove()


def uncast(
    optimizer: Any, state: Mapping[str, Any], parameters: Sequence[torch.Tensor], which: Collection[int]
) -> None:
    """Give an optimizer the values of a state where torch cast them to the dtype of their parameter.

    `which` are the numbers of the parameters of which that is done.
    """
    for index, (number, parameter) in enumerate(zip(numbers_in(state), parameters, strict=False)):
        if index in which and parameter in optimizer.state:
            optimizer.state[parameter] = _as_given(optimizer.state[parameter], state["state"].get(number))


def _refuse_shapes(trainer: Any, state: Mapping[str, Any]) -> None:
    wrong: list[str] = []
    for number, (_, name, parameter) in zip(numbers_in(state), named_parameters_of(trainer), strict=False):
        for key, value in (state["state"].get(number) or {}).items():
            if key in ELEMENTWISE and isinstance(value, torch.Tensor) and value.shape != parameter.shape and value.ndim:
                wrong.append(f"{key} of {name} is {tuple(value.shape)} and not {tuple(parameter.shape)}")
    if wrong:
        raise ResumeRefused(
            f"the saved state of {type(bare_optimizer(trainer)).__name__} does not fit its parameters: {listed(wrong)}",
            hint="Build the model, and the groups of its optimizer, in the order in which they were; or start a new "
            "run from the weights.",
        )


def _as_given(taken: Any, given: Any) -> Any:
    if isinstance(taken, torch.Tensor) and isinstance(given, torch.Tensor):
        return taken if taken.dtype == given.dtype else given.to(taken.device, copy=True)
    if isinstance(taken, dict) and isinstance(given, Mapping):
        return {key: _as_given(value, given.get(key)) for key, value in taken.items()}
    if isinstance(taken, list) and isinstance(given, list) and len(taken) == len(given):
        return [_as_given(*pair) for pair in zip(taken, given, strict=True)]
    return taken
