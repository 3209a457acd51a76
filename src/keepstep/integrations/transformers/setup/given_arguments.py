"""The user's training arguments, and those of them that must not act by themselves while keepstep does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class StagedPath(str):
    """A path that leads into a checkpoint which is being written; whoever stores it stores the final one."""

    __slots__ = ("final",)
    final: str

    @classmethod
    def of(cls, staged: str, final: str) -> StagedPath:
        """The path `staged`, which is pickled and copied as `final`."""
        path = cls(staged)
        path.final = final
        return path

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (self.final,)


class GivenArguments:
    """Arguments of a trainer as its user gave them."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._given: dict[str, Any] = {}

    @property
    def _args(self) -> Any:
        return self._trainer.args

    @property
    def token(self) -> str | None:
        """The token for the Hub that the user gave."""
        return self._args.hub_token

    @contextmanager
    def held_back(self, *, resuming: bool, greater_is_better: bool | None = None) -> Iterator[None]:
        """While it lasts, the trainer removes no checkpoint itself, and a resume evaluates nothing at its start.

        `greater_is_better` is the direction for stock callbacks that read it here, such as EarlyStoppingCallback;
        None leaves the user's.
        """
        args = self._args
        self._given = {"save_total_limit": args.save_total_limit, "eval_on_start": args.eval_on_start}
        if greater_is_better is not None:
            self._given["greater_is_better"] = args.greater_is_better
            args.greater_is_better = greater_is_better
        args.save_total_limit = None
        args.eval_on_start = args.eval_on_start and not resuming
        try:
            yield
        finally:
            self._set(self._given)
            self._given = {}

    @contextmanager
    def as_given(self, staging: Path) -> Iterator[None]:
        """What a checkpoint records of the arguments, as `recorded`.

        Meanwhile a path that is built from `output_dir` leads into `staging`, where the checkpoint is being written.
        """
        output_dir = self._args.output_dir
        with self.recorded():
            self._args.output_dir = StagedPath.of(os.fspath(staging), str(output_dir))
            try:
                yield
            finally:
                self._args.output_dir = output_dir

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """What is recorded of the arguments beside a model: the user's values, and no token."""
        inside = {**self._given, "hub_token": None}
        outside = {name: getattr(self._args, name) for name in inside}
        self._set(inside)
        try:
            yield
        finally:
            self._set(outside)

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self._args, name, value)
