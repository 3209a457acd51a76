"""Resuming: is there a point to go on from, is it asked for in the right place, and can it be exact."""

from __future__ import annotations

from typing import cast

from keepstep.operations.doctor.facts import Facts
from keepstep.operations.doctor.found import Found
from keepstep.operations.doctor.rules.writing import FILES, SCRIPT, TRAINER, rule
from keepstep.operations.doctor.settings import NotKnown, Unread


@rule(
    "W301",
    "no recovery point before the end",
    why="The first checkpoint is written when the training is over: a crash at any moment before that loses all of it.",
    fix="Set save_strategy='steps' and a save_steps of a tenth of the training or less.",
)
def no_recovery_point(facts: Facts) -> Found | None:
    """`save_strategy="epoch"` with one epoch, or a `save_steps` that the training never reaches."""
    settings, strategy = facts.settings, facts.settings.word("save_strategy")
    if _saves_by_clock_before_the_end(facts):
        return None
    if strategy == "epoch" and settings.number("max_steps") <= 0 and settings.number("num_train_epochs") <= 1:
        epochs = settings.number("num_train_epochs")
        what = f"save_strategy='epoch' with num_train_epochs={epochs:g}: the first save is the last"
        return Found(what, ("save_strategy", "num_train_epochs"))
    if strategy != "steps":
        return None
    every, total = facts.steps_between_saves, facts.total_steps
    if every is None or total is None or every < total:
        return None
    return Found(f"save_steps={every:,} of {total:,} steps: the first save is the last", ("save_steps", "max_steps"))


def _saves_by_clock_before_the_end(facts: Facts) -> bool:
    if facts.clock is None:
        return False
    total, step = facts.total_steps, facts.pace.step_seconds
    return total is None or step is None or facts.clock < total * step


@rule(
    "W302",
    "nothing is saved",
    why="A crash loses everything, and so does the end, unless the script saves the model itself.",
    fix="Set save_strategy='steps'.",
)
def nothing_saved(facts: Facts) -> Found | None:
    """`save_strategy` is "no", and nothing is saved by the clock (`save_every`)."""
    if facts.saves:
        return None
    return Found("save_strategy='no': no checkpoint is written", ("save_strategy",))


@rule(
    "E303",
    "resume_from_checkpoint stands where it is ignored",
    why="TrainingArguments only carries it; Trainer.train() reads its own argument. The training begins anew, in a "
    "directory that holds the old checkpoints, and removes them as its limit is reached.",
    fix="Pass it on: trainer.train(resume_from_checkpoint=args.resume_from_checkpoint).",
    sources=frozenset({SCRIPT}),
)
def resume_in_the_config(facts: Facts) -> Found | None:
    """`resume_from_checkpoint` is set in the config, and not given to `train()`."""
    given = facts.settings["resume_from_checkpoint"]
    if not given or facts.resumes:
        return None
    what = f"resume_from_checkpoint={given!r} is set in the config, and train() is not told"
    return Found(what, ("resume_from_checkpoint",))


@rule(
    "E304",
    "save_only_model, and a resume is asked for",
    why="Without optimizer.pt the stock Trainer goes on with a fresh optimizer and scheduler, and says nothing. "
    "keepstep refuses such a resume.",
    fix='Set save_only_model=False; drop optimizer states later, with keep="latest:2,best:5" or `keepstep thin`.',
    sources=FILES,
)
def weights_only_and_resume(facts: Facts) -> Found | None:
    """`save_only_model=True` in a training that is told to resume."""
    if not facts.settings["save_only_model"] or not facts.saves or not facts.asks_to_resume:
        return None
    what = "save_only_model=True, and train() is told to resume: there is no optimizer state to go on with"
    return Found(what, ("save_only_model", "resume_from_checkpoint"))


@rule(
    "W305",
    "no checkpoint can be resumed from",
    why="Optimizer, scheduler and random states are not saved: after a crash the training begins anew.",
    fix="Set save_only_model=False to go on after a crash.",
)
def weights_only(facts: Facts) -> Found | None:
    """`save_only_model=True`."""
    if not facts.settings["save_only_model"] or not facts.saves:
        return None
    if facts.source not in (TRAINER, "run") and facts.resume_known and facts.asks_to_resume:
        return None  # E304 says it
    what = "save_only_model=True: the checkpoints hold weights alone, and none of them can be resumed from"
    return Found(what, ("save_only_model",))


@rule(
    "E306",
    "enable_jit_checkpoint saves in the middle of a step",
    why="On SIGTERM it saves before the optimizer step that is under way, or before that step's evaluation; such a "
    "resume is not exact. Two ranks that see the signal one step apart wait for each other for ever.",
    fix="Set enable_jit_checkpoint=False, and save often enough (`keepstep plan --mtbf`).",
    solved="the step under way is finished, evaluated where that is due, and saved; there the training ends, on all "
    "ranks",
    sources=FILES,
)
def jit_checkpoint(facts: Facts) -> Found | None:
    """`enable_jit_checkpoint=True`."""
    if not facts.settings["enable_jit_checkpoint"]:
        return None
    return Found("enable_jit_checkpoint=True", ("enable_jit_checkpoint",))


@rule(
    "W307",
    "another seed at every start",
    why="Under the stock Trainer the data then come in another order after a resume, so that some rows are seen twice "
    "and others never. keepstep puts the order back, and still can't call such a resume exact.",
    fix="Write a number: seed=42, and data_seed=42 where other code reseeds torch.",
)
def seed_varies(facts: Facts) -> Found | None:
    """`seed` or `data_seed` comes from a clock or a random number."""
    for name in ("seed", "data_seed"):
        found = facts.settings.values.get(name)
        if isinstance(found, Unread) and found.varies:
            return Found(f"{name}={found.text} is another number at every start", (name,))
    return None


@rule(
    "W308",
    "torch is reseeded, and there is no data_seed",
    why="Without data_seed the sampler takes torch's own seed when train() begins; after a restart that is another "
    "one, and the data come in another order.",
    fix="Set data_seed to a number.",
    solved="the sampler's seed is saved with every checkpoint",
    sources=frozenset({SCRIPT}),
)
def reseeded(facts: Facts) -> Found | None:
    """The script seeds torch with a clock or a random number, and `data_seed` is left out."""
    if not facts.reseeds or facts.settings["data_seed"] is not None:
        return None
    first = facts.reseeds[0]
    return Found(f"{first.text} seeds torch anew at every start, and data_seed is not set", where=facts.at(first.line))


@rule(
    "W309",
    "ignore_data_skip repeats the epoch's data",
    why="After a resume the epoch begins with its first rows: some are trained twice, the last ones not at all.",
    fix="Set ignore_data_skip=False.",
    sources=FILES,
)
def data_not_skipped(facts: Facts) -> Found | None:
    """`ignore_data_skip=True` in a training that is told to resume."""
    if not facts.settings["ignore_data_skip"] or not facts.asks_to_resume:
        return None
    return Found("ignore_data_skip=True, and train() is told to resume", ("ignore_data_skip",))


@rule(
    "W310",
    "the resumed training logs to fewer places",
    why="The curves there end at the crash, while the training goes on.",
    fix="Name them all in report_to.",
    sources=frozenset({SCRIPT, TRAINER}),
)
def fewer_loggers(facts: Facts) -> Found | None:
    """An earlier start wrote TensorBoard, W&B or MLflow files here, and `report_to` no longer names them."""
    if facts.source != TRAINER and not facts.asks_to_resume:
        return None
    if not facts.places_before:
        return None
    given = facts.settings["report_to"]
    now = {given} if isinstance(given, str) else {str(name) for name in _listed(given)}
    missing = [] if "all" in now else [name for name in facts.places_before if name not in now]
    if not missing:
        return None
    shown = ", ".join(sorted(now - {"none"})) or "nothing"
    return Found(f"an earlier start logged to {', '.join(missing)} as well; report_to is {shown}", ("report_to",))


@rule(
    "E311",
    "a fresh start among old checkpoints",
    why="The stock Trainer counts them as its own: it removes them as its limit is reached, and a later "
    "resume_from_checkpoint=True may take one of the old run. keepstep sets a run aside that has ended, and refuses "
    "such a start beside an unfinished one.",
    fix='Resume: trainer.train(resume_from_checkpoint=True), with keepstep "auto"; or use another output_dir, or with '
    'keepstep attach(trainer, fresh="new-run").',
    sources=frozenset({SCRIPT}),
)
def fresh_start_in_a_used_directory(facts: Facts) -> Found | None:
    """The output_dir holds checkpoints, and `train()` is not told to resume."""
    if not facts.checkpoints_there or not facts.saves or facts.resumes:
        return None
    if facts.value(facts.fresh, "fresh") == "new-run":
        return None
    if not facts.resume:
        raise NotKnown("what train() is told to resume from")
    place = facts.place.path if facts.place else "the output_dir"
    steps = ", ".join(map(str, facts.checkpoints_there[-3:]))
    more = "..., " if len(facts.checkpoints_there) > 3 else ""
    return Found(f"{place} holds checkpoints (steps {more}{steps}), and train() begins anew", ("output_dir",))


def _listed(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []
