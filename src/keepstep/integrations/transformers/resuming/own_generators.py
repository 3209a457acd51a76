"""The random generators that a trainer's own parts hold: collators, data sets, samplers, callbacks, rewards."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from keepstep.integrations.transformers.resuming.data_order import parts_of
from keepstep.integrations.transformers.resuming.loop_state import LoopState
from keepstep.integrations.transformers.setup.fingerprint import trained_class
from keepstep.integrations.transformers.setup.messages import listed, logger
from keepstep.snapshot import generators, random_state
from keepstep.snapshot.finding import Finding, find

FIRST = ("data_collator", "train_dataset", "eval_dataset", "processing_class", "reward_funcs")
LAST = ("optimizer", "lr_scheduler", "model")
_APART = ("state", "control", "args", "accelerator", "callback_handler", "model_wrapped", "model_init", "deepspeed")
LOADED = ("data_collator", "train_dataset")
"""Where the workers of a data loader draw from copies."""
LOADER = "train_dataloader"


class OwnGenerators:
    """The generators of one trainer's parts, found anew where `refresh` is called; by path, each once.

    `failed` is True once they could not be looked for, which is said.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._found = Finding()
        self.failed = False

    @property
    def paths(self) -> list[str]:
        """The paths of those that were found."""
        return list(self._found.generators)

    @property
    def without_state(self) -> list[str]:
        """The paths of those whose state can't be kept."""
        return [path for path, one in self._found.generators.items() if not generators.has_state(one)]

    def refresh(self, wanted: Collection[str] = ()) -> None:
        """Look for them: some are made with the first batch. Where a `wanted` one is still to be made is noted."""
        try:
            self._found = find_in(self._trainer, wanted)
        except Exception as error:  # other people's objects; no training depends on it
            if not self.failed:
                text = "random generators that this training holds could not be looked for: %s: %s"
                logger.warning(text, type(error).__name__, error)
            self.failed = True

    def note(self) -> random_state.Note:
        """What they, and the global ones, stand at."""
        return random_state.note(self._found.generators)

    def states(self) -> dict[str, generators.State]:
        """What they stand at."""
        return random_state.states(self._found.generators)

    def restore(self, states: Mapping[str, generators.State] | None, *, samplers: bool = True) -> None:
        """Let them go on from states by path; one that is not made yet is made. What does not fit is said.

        Without `samplers`, those that the order of the data is drawn from stay as they are.
        """
        states = {path: state for path, state in (states or {}).items() if samplers or not path.startswith(LOADER)}
        if not states:
            return
        self.refresh(states)
        lost: list[str] = []
        done: set[str] = set()
        for path, state in states.items():
            name = self._found.names.get(path)
            try:
                if name is None and path in self._found.vacant:
                    owner, attribute = self._found.vacant[path]
                    object.__setattr__(owner, attribute, generators.made_of(state))
                elif name is None:
                    lost.append(path)
                elif name not in done:
                    generators.put_state(self._found.generators[name], state)
                    done.add(name)
            except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
                lost.append(path)
        if lost:
            logger.warning("the state of %s is in the checkpoint, and can't be put back: it begins anew", listed(lost))
        self.refresh()


def find_in(trainer: Any, wanted: Collection[str] = ()) -> Finding:
    """The generators that a trainer holds, and the objects of the user's that lead to them."""
    own = {name: value for name, value in vars(trainer).items() if not name.startswith("_keepstep")}
    loader = getattr(trainer.callback_handler, "train_dataloader", None)
    roots = {name: own[name] for name in FIRST if name in own}
    roots |= {f"{LOADER}.{type(part).__name__}": part for part in parts_of(loader) if part is not loader}
    roots |= callbacks_of(trainer)
    roots |= {name: value for name, value in own.items() if name not in (*FIRST, *LAST, *_APART)}
    roots |= {"trainer": trained_class(trainer)}
    roots |= {name: own[name] for name in LAST if name in own}
    return find(roots, wanted, [trainer, *(own[name] for name in _APART if name in own), loader])


class Unrestored(NamedTuple):
    """The paths of generators that a resume does not restore, by the reason.

    `lost` are in the checkpoint alone, `new` in this training alone; those `without_state` have none that can be kept;
    of those that are `copied` each worker of the data loader has its own.
    """

    lost: list[str]
    new: list[str]
    without_state: list[str]
    copied: list[str]

    @property
    def here(self) -> list[str]:
        """Those of this training."""
        return [*self.new, *self.without_state, *self.copied]


def unrestored(trainer: Any, loop: LoopState | None) -> Unrestored:
    """What of the generators that a trainer's parts hold goes on from elsewhere than where the checkpoint left it."""
    kept = None if loop is None else loop.own
    before = [path for path in kept or () if not path.startswith(LOADER)]
    found = find_in(trainer, before)
    now = [path for path in found.generators if not path.startswith(LOADER)]
    if loop is None or kept is None:
        return Unrestored([], now, [], [])
    known = {found.names[path] for path in kept if path in found.names} | {*loop.own_without_state}
    return Unrestored(
        [path for path in before if path not in found.names and path not in found.vacant],
        [path for path in now if path not in known],
        list(loop.own_without_state),
        [path for path, root in found.roots.items() if root in LOADED] if _is_copied(trainer, loop) else [],
    )


def _is_copied(trainer: Any, loop: LoopState) -> bool:
    return bool(trainer.args.dataloader_num_workers) and loop.mid_epoch


def callbacks_of(trainer: Any) -> dict[str, Any]:
    """The callbacks by the names of their classes, with a number from the second of a class on."""
    found: dict[str, Any] = {}
    for callback in trainer.callback_handler.callbacks:
        name = f"callbacks.{type(callback).__name__}"
        number = sum(other == name or other.startswith(f"{name}[") for other in found)
        found[f"{name}[{number}]" if number else name] = callback
    return found
