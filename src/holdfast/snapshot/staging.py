"""Copying live state into the arena while training goes on, and the gate that holds the optimizer until it is done."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from holdfast.errors import HoldfastError
from holdfast.formats.memory import copy


class StateChangedError(HoldfastError):
    """The training state was changed while it was being copied."""

    code = "state-changed"


@dataclass(frozen=True, slots=True)
class Copy:
    """One piece of live host memory, and where its bytes go."""

    name: str
    source: memoryview
    target: memoryview


@dataclass(slots=True)
class Snapshot:
    """What is to be copied: `at_once` may change in a forward pass, `later` changes in `optimizer.step` only.

    `watched` are the live tensors of `later`: their version counters tell when one was changed too early.
    """

    at_once: list[Copy] = field(default_factory=list[Copy])
    later: list[Copy] = field(default_factory=list[Copy])
    watched: list[tuple[str, torch.Tensor]] = field(default_factory=list[tuple[str, torch.Tensor]])


class Versions:
    """The version counters of live tensors at one moment; holds the tensors."""

    def __init__(self, watched: Sequence[tuple[str, torch.Tensor]]) -> None:
        self._watched = [(name, tensor, tensor._version) for name, tensor in watched]

    def check(self) -> None:
        """Raises StateChangedError when one of them was changed since."""
        for name, tensor, version in self._watched:
            if tensor._version != version:
                raise _changed(name)


class Staging:
    """A snapshot under way: a thread copies; `wait` is the gate.

    `check` also copies everything at once, and compares: it finds what version counters can't see.
    """

    def __init__(self, snapshot: Snapshot, *, check: bool = False) -> None:
        copy_all(snapshot.at_once)
        self._later = snapshot.later
        self._versions = Versions(snapshot.watched)
        self._true = [bytes(piece.source) for piece in snapshot.later] if check else None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="holdfast-stage", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when every byte is copied."""
        self._thread.join()

    def finish(self) -> None:
        """Return when every byte is copied. Raises StateChangedError."""
        self.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            copy_all(self._later)
            self._versions.check()
            self._check_bytes()
        except BaseException as error:
            self._error = error
        finally:
            # The training may free or replace its tensors now.
            self._versions, self._later, self._true = Versions(()), [], None

    def _check_bytes(self) -> None:
        for piece, true in zip(self._later, self._true or [], strict=False):
            if piece.target != true:
                raise _changed(piece.name)


def copy_all(pieces: Sequence[Copy]) -> None:
    """Copy each piece to its target."""
    for piece in pieces:
        copy(piece.target, piece.source)


def _changed(name: str) -> StateChangedError:
    return StateChangedError(
        f"{name} was changed while it was being saved: by a callback or a hook, not by optimizer.step",
        hint='Save it before anything changes it: attach(trainer, engine="stock").',
    )
