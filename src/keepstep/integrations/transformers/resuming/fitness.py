"""Before anything is loaded: is this checkpoint fit for this training, and how exact will the resume be?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keepstep.errors import CheckpointCorrupt, ResumeRefused
from keepstep.integrations.transformers.resuming.comparing import Comparison
from keepstep.integrations.transformers.resuming.in_force import InForce, reason_of_argument, reasons_of_given
from keepstep.integrations.transformers.resuming.loop_state import LoopState, missing_for_resume
from keepstep.integrations.transformers.resuming.optimizer_order import as_now, regrouped
from keepstep.integrations.transformers.resuming.override import Override
from keepstep.integrations.transformers.resuming.override_words import reasons_of_override
from keepstep.integrations.transformers.resuming.own_generators import unrestored
from keepstep.integrations.transformers.resuming.rank_parts import processes_of
from keepstep.integrations.transformers.setup.messages import listed
from keepstep.integrations.transformers.setup.overrides import KINDS, WORLD_SIZE
from keepstep.integrations.transformers.setup.own_code import LOADS, SAVES, own
from keepstep.integrations.transformers.stock import TRAINER_STATE_NAME
from keepstep.run import Difference, Exactness, Reason, Receipt, ResumePoint, fingerprint_differences

_LEVELS = {
    "data": Exactness.APPROXIMATE,
    "model": Exactness.APPROXIMATE,
    "adapter": Exactness.APPROXIMATE,
    "optimizer": Exactness.EQUIVALENT,
    "eval data": Exactness.EQUIVALENT,
    "versions": Exactness.EQUIVALENT,
    "device": Exactness.EQUIVALENT,
}


def read_trainer_state(directory: Path) -> dict[str, Any]:
    """`trainer_state.json` of a checkpoint. Raises CheckpointCorrupt."""
    try:
        state = json.loads((directory / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
            raise ValueError("it has no global_step")
    except (OSError, ValueError) as error:
        raise CheckpointCorrupt(f"{directory / TRAINER_STATE_NAME} can't be used: {error}") from error
    return state


def refuse_incomplete(point: ResumePoint, trainer: Any) -> None:
    """Raises ResumeRefused where a part is missing.

    What a checkpoint with a manifest needs is what was saved; of any other it is known by the names of stock files,
    where the trainer has no loader of its own.
    """
    managed = bool(point.checkpoint.files)
    missing = [] if managed else missing_for_resume(point.path, weights=not own(trainer, (*SAVES, *LOADS)))
    if missing:
        raise ResumeRefused(
            f"{point.path} is no resume point: {', '.join(missing)} missing",
            hint='Its weights can start a new run; or resume from another checkpoint (resume_from_checkpoint="auto").',
        )


def refuse_unfit(point: ResumePoint, now: Mapping[str, Any]) -> None:
    """Raises ResumeRefused, naming the numbers, when loading would fail or take the wrong state.

    That is: another optimizer, parameters of other shapes (another LoRA rank, another model).
    """
    before = point.checkpoint.fingerprint
    found = list(fingerprint_differences(before, now)) if before and now else []
    _refuse_optimizer(point, found)
    _refuse_shapes(point, found)


def _refuse_optimizer(point: ResumePoint, found: list[Difference]) -> None:
    for difference in found:
        if difference.section == "optimizer" and not {difference.before, difference.now} <= _ONE_STATE:
            raise ResumeRefused(
                f"{point.path} holds the state of optimizer {difference.before}; this training uses {difference.now}",
                hint=f"Resume with optim={difference.before!r}, or start a new run from its weights.",
            )


_ONE_STATE = frozenset({"adamw_torch", "adamw_torch_fused"})
"""Optimizers that read each other's state; which one is the default depends on the versions."""


_TELLING = {("model", "class"), ("model", "trainable")}


def _refuse_shapes(point: ResumePoint, found: list[Difference]) -> None:
    if not any(d.section == "model" and d.name == "shapes" for d in found):
        return
    telling = [d for d in found if d.section == "adapter" or (d.section, d.name) in _TELLING]
    what = "; ".join(map(str, telling)) or "same number of parameters, other names or shapes"
    raise ResumeRefused(
        f"{point.path} does not fit this model: {what}",
        hint="Build the model (and its LoraConfig) as it was, or start a new run in another output_dir.",
    )


def refuse_empty(point: ResumePoint, state: Mapping[str, Any], now: Mapping[str, Any], max_steps: int) -> bool:
    """True when the training was already complete at the checkpoint.

    Raises ResumeRefused when the new settings leave nothing to train although the old ones did.
    """
    step, planned = int(state["global_step"]), int(state.get("max_steps") or 0)
    if step < max_steps:
        return False
    if step >= planned and max_steps == planned:
        return True
    before = point.checkpoint.fingerprint
    found = fingerprint_differences(before, now) if before and now else ()
    changed = [str(d) for d in found if d.section in ("arguments", "data") and d.name != "digest"]
    why = f" ({'; '.join(changed)})" if changed else ""
    raise ResumeRefused(
        f"{point.path} is step {step} of {planned}; with the settings of now the whole training has {max_steps} steps, "
        f"so nothing would be trained{why}",
        hint="Put the settings back, raise num_train_epochs or max_steps, or start a new run from its weights.",
    )


def make_receipt(
    point: ResumePoint,
    now: Mapping[str, Any],
    trainer: Any,
    loop: LoopState | None,
    comparison: Comparison,
    *,
    override: Override,
    of_ranks: Sequence[str] = (),
) -> Receipt:
    """The receipt of resuming `trainer` from `point`, once it has loaded, and what is overridden is in force.

    `of_ranks` says what other ranks do not go on with.
    """
    verified = bool(point.checkpoint.files)
    before = point.checkpoint.fingerprint
    known = bool(before) and bool(now)
    kept = {} if loop is None else as_now(trainer, loop.optimizer_order, loop.in_force)
    found = fingerprint_differences(before, now) if known else ()
    said = {name for name in override.names if name in KINDS}
    told = [difference for difference in found if difference.section != "arguments" or difference.name not in said]
    # Once for many rows and a few of them.
    found_reasons = (_reason(difference, trainer, kept) for difference in told)
    reasons = list(dict.fromkeys(reason for reason in found_reasons if reason is not None))
    reasons += [*reasons_of_override(override), *reasons_of_given(trainer, kept, comparison.given, said)]
    if loop is not None and kept.get("learning_rate", [])[:1] != loop.in_force.get("learning_rate", [])[:1]:
        text = "the optimizer's groups are in another order: the learning_rate that is logged is that of another group"
        reasons.append(Reason(Exactness.EQUIVALENT, text))
    if loop is not None and (moved := regrouped(trainer, loop.optimizer_order)):
        text = f"optimizer: {listed(moved)} in another group than at the save, and by its numbers from here on"
        reasons.append(Reason(Exactness.APPROXIMATE, text))
    if not known:
        missing = "this training has" if before else "the checkpoint carries"
        text = f"{missing} no fingerprint: data, arguments and versions could not be compared"
        reasons.append(Reason(Exactness.APPROXIMATE, text))
    if loop is None:
        who = "the state of the loop is not in it" if verified else "stock tools wrote it"
        text = f"{who}: running loss, token counts and the epoch's random state start anew"
        reasons.append(Reason(Exactness.APPROXIMATE, text))
    reasons += [] if WORLD_SIZE in said else _other_world(point, trainer.args.world_size)
    data = now.get("data", {})
    reasons += _not_restorable(trainer, loop, data)
    reasons += [Reason(Exactness.APPROXIMATE, text) for text in of_ranks]
    reasons += comparison.reasons
    if known and not _are_compared(before.get("data", {}), data):
        text = "the training data can't be compared: its rows can't be read, or are not the same twice"
        reasons.append(Reason(Exactness.APPROXIMATE, text))
    passed = [verification.summary() for verification in point.passed_over]
    passed += [f"{foreign.path.name}: {foreign.reason}" for foreign in point.unusable]
    return Receipt(point.checkpoint.step, str(point.path), tuple(reasons), verified, tuple(passed), comparison.sentence)


def _reason(difference: Difference, trainer: Any, kept: InForce) -> Reason | None:
    if difference.section == "arguments":
        return reason_of_argument(difference, trainer, kept)
    if difference.section in ("data", "eval data") and _is_no_content(difference):
        return None
    level = _LEVELS.get(difference.section, Exactness.APPROXIMATE)
    return Reason(level, _SENTENCES.get((difference.section, difference.name), f"{difference.section}: {difference}"))


def _is_no_content(difference: Difference) -> bool:
    """True for what says how data was read, and for a digest that one of the two sides has not."""
    name = difference.name.rpartition(".")[2]
    return name in ("random", "sampled") or (name in ("digest", "few") and None in (difference.before, difference.now))


def _are_compared(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether rows were read on both sides, as many as ever or, where that takes long, the same few.

    True as well where there are none on either side, as of a stream.
    """
    both = (before.get(name) is not None and now.get(name) is not None for name in ("digest", "few"))
    return before.get("rows") is now.get("rows") is None or any(both)


_SENTENCES = {
    ("data", "digest"): "the training data has other contents",
    ("data", "few"): "the training data has other contents",
    ("eval data", "few"): "the evaluation data has other contents: its metrics can't be compared with earlier ones",
    ("eval data", "digest"): "the evaluation data has other contents: its metrics can't be compared with earlier ones",
    ("model", "base weights"): "the frozen base model has other weights",
}


def require_there(path: Path, rank: int) -> None:
    """Raises ResumeRefused on a rank that does not see the checkpoint which rank 0 chose."""
    if not path.is_dir():
        raise ResumeRefused(
            f"rank {rank} does not find {path}, which rank 0 reads",
            hint="All processes must see the output_dir under one path: put it on a file system that the nodes share.",
        )


def _other_world(point: ResumePoint, now: int) -> list[Reason]:
    """Why a resume on another number of processes is another course; empty on the same number."""
    before = processes_of(point.path)
    if before in (0, now):
        return []
    was, this = ("1 process" if count == 1 else f"{count} processes" for count in (before, now))
    text = f"it was saved by {was}, now {this}: batches, data order and random numbers are divided in another way"
    return [Reason(Exactness.APPROXIMATE, text)]


def _not_restorable(trainer: Any, loop: LoopState | None, data: Mapping[str, Any]) -> list[Reason]:
    args = trainer.args
    found: list[str] = []
    if args.ignore_data_skip:
        found.append("ignore_data_skip=True: the epoch's data begins anew")
    if not hasattr(trainer.train_dataset, "__len__") and not _is_placed(loop):
        found.append("the training data is a stream: past its first pass its position can't be restored")
    found += _not_drawn_again(trainer, loop, data)
    found += _own_generators(trainer, loop)
    if loop is not None and loop.left_out:
        found.append(f"not kept, so that the next log may average other values: {', '.join(loop.left_out)}")
    if loop is not None:
        found += loop.inexact
    if loop is not None and loop.epoch_start is None:
        found.append("the random state at the start of the epoch is not in the checkpoint")
    return [Reason(Exactness.APPROXIMATE, text) for text in found]


def _not_drawn_again(trainer: Any, loop: LoopState | None, data: Mapping[str, Any]) -> list[str]:
    """Why the batches after a resume in mid-epoch may be drawn from other random numbers; empty where they are not."""
    if loop is not None and not loop.mid_epoch:
        return []
    workers = bool(trainer.args.dataloader_num_workers)
    streams = not hasattr(trainer.train_dataset, "__len__") and not _is_placed(loop)
    if loop is not None and loop.ahead is not None and not workers and not streams:
        return []
    if loop is not None and workers and _are_kept(trainer, loop):
        return []
    where = "in the data loader's workers, each from its own" if workers else "ahead of the restored random state"
    if getattr(trainer.data_collator, "mlm", False):
        return [f"the collator masks at random, {where}"]
    if workers and data.get("random"):
        return [f"the data set draws random numbers, {where}"]
    if loop is not None and loop.loading_draws:
        return [f"the collator or the data set draws random numbers, {where}"]
    return []


def _is_placed(loop: LoopState | None) -> bool:
    """True where a stream's place is in the checkpoint, or it stood between two passes."""
    return loop is not None and (loop.stream is not None or not loop.mid_epoch)


def _are_kept(trainer: Any, loop: LoopState) -> bool:
    """True where the workers go on as they were; of a stream without a state they do once more what they did."""
    if loop.stream is not None:
        return loop.stream.kind == ""
    return loop.workers is not None and len(loop.workers["states"]) == trainer.args.dataloader_num_workers


def _own_generators(trainer: Any, loop: LoopState | None) -> list[str]:
    """What of the generators that the trainer's parts hold is not restored, by path."""
    lost, new, without_state, copied = unrestored(trainer, loop)
    reasons: list[str] = []
    if lost:
        reasons.append(f"{_them(lost)} in the checkpoint, and not found in this training")
    if new:
        reasons.append(f"{_them(new)} not in the checkpoint: {_anew(new)}")
    if without_state:
        reasons.append(
            f"no state can be had of {listed(without_state)}: what is drawn from there is another after a resume"
        )
    if copied:
        reasons.append(f"{_them(copied)} drawn from by the data loader's workers, which have copies: those begin anew")
    return reasons


def _them(paths: list[str]) -> str:
    return f"the random generator {paths[0]} is" if len(paths) == 1 else f"the random generators {listed(paths)} are"


def _anew(paths: list[str]) -> str:
    return "it begins anew" if len(paths) == 1 else "they begin anew"
