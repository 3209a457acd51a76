"""Output directories."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tests.cases.facts import Facts
from tests.cases.parts import BEST_AT_END, BY_LOSS, Scored, trainer
from tests.cases.situation import Life, Side, Situation, checkpoints, dying, step_of

Named = Callable[[Path], str]
"""How a script names its output directory, from the directory above it."""


class GoesElsewhere(TrainerCallback):
    """Changes the working directory after step 3."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            elsewhere = Path("elsewhere").absolute()
            elsewhere.mkdir(exist_ok=True)
            os.chdir(elsewhere)


def nothing(out: Path) -> None:
    """No preparation."""


def linked(out: Path) -> None:
    """The output directory is a symbolic link."""
    real = out.with_name(f"real {out.name}")
    real.mkdir(exist_ok=True)
    if not out.exists():
        out.symlink_to(real)


def living(
    named: Named, kill: int | None, callbacks: Sequence[type[TrainerCallback]], prepare: Callable[[Path], None],
    arguments: dict[str, Any],
) -> Life:  # fmt: skip
    """A life whose script stands in the directory above."""

    def life(side: Side, out: Path) -> Facts:
        os.chdir(out.parent)
        prepare(out)
        place = Path(named(out)).resolve()
        built = trainer(named(out), Scored, callbacks=[one() for one in callbacks], **arguments)
        if kill is not None:
            dying(built, kill, side)
        side.attach(built)
        side.train(built)
        found = [step_of(path) for path in checkpoints(place)] if place.exists() else []
        return {
            **side.facts(built),
            "newest there": found[-1:],
            "scattered": Path(out.parent, "elsewhere", out.name).exists(),
        }

    return life


def placed(
    name: str, tells: str, named: Named, *callbacks: type[TrainerCallback], prepare: Callable[[Path], None] = nothing,
    **arguments: Any,
) -> Situation:  # fmt: skip
    """Trained, killed after step 4 and resumed in an output directory of that name."""
    return Situation(
        name, tells, trainer, wants={"newest there": [10], "scattered": False},
        whole=living(named, None, callbacks, prepare, arguments),
        broken=tuple(living(named, kill, callbacks, prepare, arguments) for kill in (4, None)),
    )  # fmt: skip


def changed_after_attach(side: Side, out: Path) -> Facts:
    """Directory, limit and metric are others by the time of `train()`."""
    built = side.attach(trainer(out / "first"))
    built.args.output_dir = str(out / "second")
    built.args.save_total_limit = 1
    built.args.metric_for_best_model = BY_LOSS["metric_for_best_model"]
    built.args.greater_is_better = BY_LOSS["greater_is_better"]
    built.train()
    places = {place: bool((out / place).exists() and checkpoints(out / place)) for place in ("first", "second")}
    return {**side.facts(built), "places": places}


SITUATIONS = (
    placed("a relative output_dir", "as most scripts name it", lambda out: out.name),
    placed("a slash at the end", "output_dir ends with one", lambda out: f"{out.name}/"),
    placed(
        "dots in the path",
        "output_dir goes down and up again",
        lambda out: f"./x/../{out.name}",
        prepare=lambda out: out.with_name("x").mkdir(exist_ok=True),
    ),
    placed("spaces and other letters", "output_dir of more than ASCII", lambda out: f"{out.name} é 模型"),
    placed("percent signs and brackets", "output_dir as sweeps name it", lambda out: f"{out.name}[lr=1e-4]%d{{x}}"),
    placed("a symbolic link", "output_dir leads to another place", lambda out: out.name, prepare=linked),
    placed(
        "another working directory in the middle",
        "a relative output_dir, and chdir after step 3",
        lambda out: out.name,
        GoesElsewhere,
    ),
    placed(
        "the best after another working directory",
        "the same with load_best_model_at_end",
        lambda out: out.name,
        GoesElsewhere,
        **BEST_AT_END,
    ),
    Situation(
        "arguments changed after attach",
        "output_dir, save_total_limit and metric are others at train()",
        trainer,
        kill=None,
        whole=changed_after_attach,
        wants={"places": {"first": False, "second": True}},
    ),
)
