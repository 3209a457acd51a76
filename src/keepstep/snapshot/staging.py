"""Copying live state into the arena while training goes on, and the gate that holds the optimizer until it is done."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from keepstep.errors import KeepstepError
from keepstep.formats.memory import copy
from keepstep.snapshot.device import DeviceCopy
from keepstep.snapshot.piece import Copy

logger = logging.getLogger("keepstep")

PATIENCE_SECONDS = 30.0
"""How often a training that waits at the gate is told so."""


class StateChangedError(KeepstepError):
    """The training state was changed while it was being copied."""

    code = "state-changed"


Plan = Callable[[], Sequence[Copy] | None]
"""Says what is to be copied; None when there is no room, and the state is to be written from where it lives."""


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
    """A snapshot under way: a thread plans and copies; `wait` is the gate, `finish` and `writing` are the writer's.

    `watched` are the live tensors: their version counters tell when one was changed too early. `check` also keeps what
    the bytes were when it began, and compares: it finds what version counters can't see. `device` copies what is not
    in host memory; there the device's queue waits at the gate, and the training's thread only until all is queued.
    """

    def __init__(
        self,
        plan: Plan,
        watched: Sequence[tuple[str, torch.Tensor]],
        *,
        check: bool = False,
        device: DeviceCopy | None = None,
    ) -> None:
        self._device = device
        if device is not None:
            device.begin()
        self._versions = Versions(watched)
        self._plan = plan
        self._true: list[bytes] | None = None
        if check:
            pieces = plan()
            self._plan = lambda: pieces
            self._true = [piece.read() for piece in pieces or ()]
        self._error: BaseException | None = None
        self._in_place = False
        self._passed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keepstep-stage", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the live state may change; says every 30 s that it may not yet."""
        began = time.monotonic()
        while not self._passed.wait(PATIENCE_SECONDS):
            logger.warning("the optimizer has waited for the disk for %.0f s", time.monotonic() - began)
        if self._device is not None:
            self._device.gate()

    def finish(self) -> None:
        """Return when all is planned, and copied where there is room. Raises what failed, such as StateChangedError."""
        self._thread.join()
        if self._error is not None:
            self._end()
            raise self._error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around the write of the state. Raises StateChangedError when it was changed while it was written in place."""
        try:
            yield
            if self._in_place:
                self._versions.check()
        finally:
            self._end()

    def _run(self) -> None:
        try:
            pieces = self._plan()
            if pieces is None:
                self._in_place = True
                return
            copy_all([piece for piece in pieces if isinstance(piece.source, memoryview)])
            self._copy_from_device([piece for piece in pieces if not isinstance(piece.source, memoryview)])
            self._check_bytes(pieces)
        except BaseException as error:
            self._error = error
        self._end()

    def _copy_from_device(self, pieces: Sequence[Copy]) -> None:
        """Queue what lies on the device; all is checked before the gate opens, and here when this returns."""
        if self._device is not None:
            self._device.copy(pieces)
        self._versions.check()
        if self._device is not None:
            self._passed.set()
            self._device.wait()

    def _end(self) -> None:
        # The training may free or replace its tensors now.
        self._versions, self._plan, self._true = Versions(()), _nothing, None
        self._passed.set()

    def _check_bytes(self, pieces: Sequence[Copy]) -> None:
        for piece, true in zip(pieces, self._true or [], strict=False):
            if piece.target != true:
                raise _changed(piece.name)


def copy_all(pieces: Sequence[Copy]) -> None:
    """Copy each piece of host memory to its target."""
    for piece in pieces:
        assert isinstance(piece.source, memoryview)
        copy(piece.target, piece.source)


def _nothing() -> Sequence[Copy] | None:
    return ()


def _changed(name: str) -> StateChangedError:
    return StateChangedError(
        f"{name} was changed while it was being saved: by a callback or a hook, not by optimizer.step",
        hint='Save it before anything changes it: attach(trainer, engine="stock").',
    )
