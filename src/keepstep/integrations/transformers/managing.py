"""A trainer's class once it is managed: the mixin before what it was, and before what was put onto the instance."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from keepstep.integrations.transformers.setup.bystanders import is_of
from keepstep.integrations.transformers.setup.own_code import OURS


class Yielding:
    """An attribute of the mixin that gives way to one of the user's own of the same name.

    Only where the instance has none, it is what `get` returns for the trainer.
    """

    def __init__(self, get: Callable[[Any], Any]) -> None:
        self._get = get
        self.__doc__ = get.__doc__

    def __get__(self, trainer: Any, owner: type | None = None) -> Any:
        return self if trainer is None else self._get(trainer)


def managed_class(mixin: type, trainer: Any) -> type:
    """The class of `trainer` with the mixin's methods in front, under the name that it had.

    A method that was put onto the instance (`trainer.train = ...`, as some libraries do) would hide the mixin's: it is
    taken from there, and called as the one that the class had. What the class has for a `Yielding` attribute stays.
    """
    original = type(trainer)
    bases: tuple[type, ...] = (mixin, original)
    patched = {name: vars(trainer)[name] for name in vars(mixin) if callable(vars(trainer).get(name))}
    if patched:
        between = type(original.__name__, (original,), {name: _calling(method) for name, method in patched.items()})
        bases = (mixin, between)
    namespace: dict[str, Any] = {"_keepstep_original": original, "_keepstep_patched": patched}
    namespace |= {"__module__": original.__module__, "__qualname__": original.__qualname__, "__doc__": original.__doc__}
    for name, attribute in vars(mixin).items():
        if isinstance(attribute, Yielding) and hasattr(original, name):
            namespace[name] = inspect.getattr_static(original, name)
    return type(original.__name__, bases, namespace)


def take_patches(trainer: Any) -> None:
    """Take from a managed trainer the methods that its class has taken over."""
    for name in type(trainer)._keepstep_patched:
        del vars(trainer)[name]


def give_back(trainer: Any) -> None:
    """Make a managed trainer what it was before."""
    kind = type(trainer)
    trainer.__class__ = kind._keepstep_original
    vars(trainer).update(kind._keepstep_patched)


def _calling(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return call


def unmanaged_copy(trainer: Any) -> tuple[Callable[..., Any], tuple[type], dict[str, Any]]:
    """What pickle and copy make another trainer from: the class that it had, without what manages this one."""
    kind = type(trainer)
    state = {name: value for name, value in vars(trainer).items() if not name.startswith("_keepstep")}
    state |= getattr(kind, "_keepstep_patched", {})
    handler = state.get("callback_handler")
    if handler is not None:
        state["callback_handler"] = copy.copy(handler)
        theirs = [one for one in handler.callbacks if not is_of(one, OURS)]
        state["callback_handler"].callbacks = theirs
    return _blank, (getattr(kind, "_keepstep_original", kind),), state


def _blank(kind: type) -> Any:
    return object.__new__(kind)
