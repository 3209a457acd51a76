"""A script for the stock Trainer, with every way to reach `train` that people and libraries use; it knows no keepstep.

    python -m tests.supervision.stock_script DIRECTORY BREAK_AT

Each trainer breaks at a step. What it went through is written down: which bodies ran, from which step, what it raised.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

from transformers import Trainer, TrainerCallback

from tests.supervision import small


class Broken(Exception):
    """Something in the script's own code."""


class Course(TrainerCallback):
    """Where a training began; breaks it at a step."""

    def __init__(self, break_at: int) -> None:
        self.break_at, self.began = break_at, -1

    def on_step_begin(self, args, state, control, **kwargs):
        if self.began < 0:
            self.began = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.break_at:
            raise Broken(state.global_step)


ran: list[str] = []


class Sub(Trainer):
    def train(self, resume_from_checkpoint=None, **kwargs):
        ran.append("Sub")
        return super().train(resume_from_checkpoint, **kwargs)


class SubSub(Sub):
    def train(self, *args, **kwargs):
        ran.append("SubSub")
        return super().train(*args, **kwargs)


class Bare(Trainer):
    def train(self):
        ran.append("Bare")
        return super().train()


class Final(Trainer):
    """Can't be managed: its class can't be derived from."""

    def __init_subclass__(cls):
        raise TypeError("nobody derives from this")


def patched(trainer):
    """As some libraries put a method onto the instance."""
    before = type(trainer).train

    def train(self, *args, **kwargs):
        ran.append("patch")
        return before(self, *args, **kwargs)

    trainer.train = types.MethodType(train, trainer)
    return trainer.train


def case(name: str, kind: type, home: Path, break_at: int, call) -> None:
    course = Course(break_at)
    trainer = small.trainer(str(home / name), kind, callbacks=[course])
    ran.clear()
    raised = ""
    try:
        call(trainer)
    except Exception as error:
        raised = type(error).__name__
    own = [type(one).__name__ for one in trainer.callback_handler.callbacks]
    seen = {"name": name, "ran": ran[:], "began": course.began, "raised": raised, "step": trainer.state.global_step}
    with (home / "seen.jsonl").open("a") as file:
        file.write(json.dumps(seen | {"callbacks": own.count("_Beating")}) + "\n")


def main() -> None:
    home, break_at = Path(sys.argv[1]), int(sys.argv[2])
    case("plain", Trainer, home, break_at, lambda t: t.train())
    case("said", Trainer, home, break_at, lambda t: t.train(resume_from_checkpoint="true"))
    case("sub", Sub, home, break_at, lambda t: t.train(None))
    case("subsub", SubSub, home, break_at, lambda t: t.train(resume_from_checkpoint=True))
    case("bare", Bare, home, break_at, lambda t: t.train())
    case("patched", Sub, home, break_at, lambda t: patched(t)())
    case("fresh", Trainer, home, break_at, lambda t: t.train(False))
    case("again", Trainer, home, 0, lambda t: (t.train(), t.train()))
    case("again_patched", Sub, home, 0, lambda t: (patched(t)(), t.train()))
    case("path", Trainer, home, break_at, lambda t: t.train(newest(home / "path")))
    case("back", Trainer, home, break_at, lambda t: t.train(earlier(home / "back")))
    case("other", Trainer, home, break_at, lambda t: t.train(earlier(home / "other")))

    def own(trainer):
        import keepstep

        keepstep.attach(trainer, keep="latest:1")
        trainer.train("auto")

    case("own", Trainer, home, break_at, own)

    case("odd", Final, home, 0, lambda t: t.train())


def newest(home: Path) -> str | None:
    """As some launchers look for the last checkpoint by themselves."""
    found = sorted(home.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return str(found[-1]) if found else None


def earlier(home: Path) -> str | None:
    """A script that begins at step 2 once there is one."""
    return str(home / "checkpoint-2") if (home / "checkpoint-2").exists() else None


if __name__ == "__main__":
    main()
