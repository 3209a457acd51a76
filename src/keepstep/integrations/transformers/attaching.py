"""`attach`: a Trainer that exists gets its checkpoint management."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

from transformers import Trainer

from keepstep.checkpointer import MIRROR_WAIT, BackPressure, Checkpointer, Fresh
from keepstep.errors import SettingsError
from keepstep.integrations.transformers.managed import ManagedTrainer
from keepstep.integrations.transformers.managing import give_back, managed_class, take_patches
from keepstep.integrations.transformers.setup.engine_choice import EngineName
from keepstep.integrations.transformers.setup.options import OnPreempt, Options
from keepstep.integrations.transformers.setup.policy import Keep
from keepstep.retention import Mode
from keepstep.run import Hook, OnDiskFull


def attach(
    trainer: Any,
    *,
    keep: Keep | None = None,
    metric: str | None = None,
    mode: Mode | None = None,
    fresh: Fresh = "refuse",
    engine: EngineName = "auto",
    arena: str | None = None,
    back_pressure: BackPressure = "wait",
    budget: str | None = None,
    min_free: str | None = None,
    on_disk_full: OnDiskFull = "finish",
    on_commit: Hook | None = None,
    on_remove: Hook | None = None,
    on_resume: Hook | None = None,
    on_failure: Hook | None = None,
    prometheus: str | None = None,
    links: bool = False,
    save_every: str | None = None,
    shared: bool = False,
    on_preempt: OnPreempt = "exit",
    preempt_deadline: str | None = None,
    max_time: str | None = None,
    stop_file: str | os.PathLike[str] | None = None,
    save_on_exception: bool = False,
    override: Sequence[str] | str = (),
    mirror: str | os.PathLike[str] | None = None,
    mirror_keep: str | None = None,
    mirror_wait: str = MIRROR_WAIT,
    mirror_required: bool = False,
    mirror_bandwidth: str | None = None,
) -> Checkpointer:
    """Give a Trainer its checkpoint management; returns the checkpointer (`ckpt.run`, `ckpt.receipt`). Attached once
    more, a trainer is managed as the last call says, by the same checkpointer.

    `keep` takes rules or a spec: `[Best(3), Latest(2)]` is `"best:3,latest:2"`; without it the policy is read from the
    trainer's arguments. `metric` and `mode` ("min", "max") default to `metric_for_best_model` and `greater_is_better`,
    else `eval_loss`. A fresh start in a used directory sets the run there aside, whole, where this process trained it
    or it has ended, and is refused where it is unfinished; `fresh="new-run"` sets that aside too. `engine="fast"`
    copies the state while the next step runs and writes it in the background, from host memory of at most `arena`
    ("16GB"; half of what is free by default); `"stock"` lets the library's own writers write; `"auto"` is fast where
    that can serve, else stock, and the start line says why. `back_pressure` is for a save that is due while the one
    before is on its way to the disk: "wait" for that, "skip" it, or save the "latest" step once there is room (a new
    best and the last step always wait). `budget="200GB"` bounds what the checkpoints take, the one being written
    included, and `min_free="20GB"` stays free; where room is short, it is made by policy. A save without room is
    refused before it writes: the training goes on, and `train` raises DiskFull at its end; with
    `on_disk_full="continue"` it does not, "pause" waits for room, "stop" raises at once. `on_commit`, `on_remove`,
    `on_resume` and `on_failure` are called with the event of each (docs/events.md); `prometheus=":9400"` serves metrics
    while the training runs, `prometheus="/path/sft.prom"` writes them for a node exporter. `links=True` keeps `best`
    and `latest` in the `output_dir`, links to these checkpoints. `save_every="20m"` ("2h", "90s") saves, beside what
    the arguments schedule, when so much training has passed since the last save, that of killed attempts included, and
    at the last step. `shared=True` lets other trainings of a tree with a budget (`keepstep budget set`) have the room
    of what this run can give up.

    SIGTERM, SIGUSR1, SIGUSR2 and the first Ctrl-C stop the training with the step under way, evaluated and saved; so do
    `max_time="7h50m"` and a `stop_file` (a relative one in the `output_dir`) that appears. Then `train()` raises
    Preempted, a SystemExit with 75; with `on_preempt="return"` it returns, `ckpt.preempted` set, and "ignore" leaves
    the signals alone. `preempt_deadline="90s"` is the time between the signal and the kill, told by the environment
    where it can be (SLURM, Kubernetes, torchrun): a save that would not fit is not begun.
    `save_on_exception=True` saves the last step when an exception ends the training between two steps.

    `override=["learning_rate"]` names arguments that take their new value at a resume, in place of what the checkpoint
    has in force; with `per_device_train_batch_size`, `gradient_accumulation_steps` or `world_size` the running epoch
    goes on at the sample where it stood. The receipt says what continues and what jumps.

    `mirror="s3://bucket/path"` (gs://, az://, a directory; by default KEEPSTEP_MIRROR) is the run's second home: what
    is committed goes there in a thread of low priority, kept by `mirror_keep` (by default as here), at most at
    `mirror_bandwidth` ("50MB/s"), and a resume on an empty machine brings the newest from there first. The end of the
    training waits for it as long as `mirror_wait` says. A mirror that can't be asked is said, and an error with
    `mirror_required=True`. Raises SettingsError, PolicyError.
    """
    options = Options(
        keep=keep, metric=metric, mode=mode, fresh=fresh, engine=engine, arena=arena, back_pressure=back_pressure,
        budget=budget, min_free=min_free, on_disk_full=on_disk_full, prometheus=prometheus, links=links,
        save_every=save_every, shared=shared, on_preempt=on_preempt, preempt_deadline=preempt_deadline,
        max_time=max_time, stop_file=stop_file, save_on_exception=save_on_exception, override=override, mirror=mirror,
        mirror_keep=mirror_keep, mirror_wait=mirror_wait, mirror_required=mirror_required,
        mirror_bandwidth=mirror_bandwidth,
        on_commit=on_commit, on_remove=on_remove, on_resume=on_resume, on_failure=on_failure,
    )  # fmt: skip
    if isinstance(trainer, ManagedTrainer):
        return trainer._keepstep_attach_again(options)
    if not isinstance(trainer, Trainer):
        raise SettingsError(
            f"attach takes a transformers Trainer or one derived from it, not {type(trainer).__name__}",
            hint="For a training loop of your own, use keepstep.Checkpointer.",
        )
    trainer.__class__ = managed_class(ManagedTrainer, trainer)
    take_patches(trainer)
    adopted = cast(ManagedTrainer, trainer)
    try:
        adopted._keepstep_setup(options)
    except BaseException:
        give_back(trainer)
        raise
    return adopted._keepstep.checkpointer
