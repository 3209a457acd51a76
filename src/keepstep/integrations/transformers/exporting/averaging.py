"""The mean of several checkpoints' weights: of all of them, or of those that make it better.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models", ICML 2022; greedy is its Recipe 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch

from keepstep.formats.safetensors_file import TensorSpec, stock_dtypes
from keepstep.integrations.transformers.exporting.tensors import Tensors, cast, cast_spec
from keepstep.operations.export.errors import ExportRefused
from keepstep.operations.export.report import Average, Trial, rank_key
from keepstep.operations.export.request import Soup
from keepstep.retention import Mode

Measure = Callable[[Sequence[int]], float]
"""Evaluates the average of the checkpoints of these steps."""


class Mean:
    """The mean of tensors of several members, one name at a time. A context manager.

    Sums are in fp64; the result has the dtype of the first member's tensor, or `dtype`. Tensors that are no floating
    ones must be equal.
    """

    def __init__(self, members: Sequence[Tensors], dtype: torch.dtype | None = None) -> None:
        self._files = members
        self._dtype = dtype
        self._stack = ExitStack()

    def __enter__(self) -> Mean:
        for files in self._files:
            self._stack.enter_context(files)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return self._files[0].names

    def get(self, name: str) -> torch.Tensor:
        """The mean of one tensor. Raises ExportRefused."""
        first = self._files[0].get(name)
        if not first.is_floating_point():
            if any(not torch.equal(first, files.get(name)) for files in self._files[1:]):
                raise ExportRefused(f"{name} differs between the checkpoints, and {first.dtype} has no mean")
            return first
        total = first.to(torch.float64)
        for files in self._files[1:]:
            total += files.get(name).to(torch.float64)
        mean = total / len(self._files)
        return cast(name, mean, self._dtype or first.dtype)

    def spec(self, name: str) -> TensorSpec:
        """Dtype, shape and bytes of the mean of one tensor, which is not made."""
        return cast_spec(self._files[0].spec(name), self._dtype)

    def check_alike(self, steps: Sequence[int]) -> None:
        """All members must have the same tensors, of the same shapes and dtypes. Raises ExportRefused."""
        first = self._files[0]
        for step, files in zip(steps[1:], self._files[1:], strict=True):
            strange = sorted(set(first.names) ^ set(files.names))
            if strange:
                raise ExportRefused(
                    f"steps {steps[0]} and {step} don't have the same tensors: {', '.join(strange[:3])}"
                )
            for name in first.names:
                one, other = first.spec(name), files.spec(name)
                if one != other:
                    raise ExportRefused(
                        f"{name} is {_describe(one)} in step {steps[0]} and {_describe(other)} in step {step}: "
                        "these can't be averaged"
                    )


def uniform(steps: Sequence[int], measure: Measure | None, measured: str, mode: Mode) -> Average:
    """The average of all, with each and the average evaluated where that is possible."""
    trials: list[Trial] = []
    if measure is not None:
        trials = [Trial((step,), measure([step])) for step in steps]
        trials.append(Trial(tuple(steps), measure(steps)))
    return Average("uniform", tuple(steps), tuple(steps), mode, tuple(trials), measured)


def greedy(steps: Sequence[int], measure: Measure, measured: str, mode: Mode) -> Average:
    """The best one, and from the next best on each that does not make the average worse."""
    trials = [Trial((step,), measure([step])) for step in steps]
    ranked = sorted(trials, key=lambda trial: (rank_key(trial.value, mode), trial.steps))
    best = ranked[0]
    for candidate in ranked[1:]:
        trial = Trial((*best.steps, *candidate.steps), measure([*best.steps, *candidate.steps]))
        trials.append(trial)
        if rank_key(trial.value, mode) <= rank_key(best.value, mode):
            best = trial
    return Average("greedy", tuple(steps), best.steps, mode, tuple(trials), measured)


def cook(soup: Soup, steps: Sequence[int], measure: Measure | None, measured: str, mode: Mode) -> Average:
    """Choose what to average."""
    if soup == "greedy" and measure is not None:
        return greedy(steps, measure, measured, mode)
    return uniform(steps, measure, measured, mode)


def _describe(found: TensorSpec) -> str:
    code = stock_dtypes()[found.dtype].code
    return f"{' x '.join(map(str, found.shape)) or 'a number'} {code}"
