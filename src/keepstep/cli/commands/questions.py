"""From the options of `keepstep plan`, and what its file says, to the question that is planned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click

from keepstep.cli.drawing.quantities import policy_of
from keepstep.errors import SettingsError
from keepstep.integrations.training_config import TrainingConfig, read_training_config
from keepstep.operations.planning.decoder import DEFAULT_TARGETS, decoder, decoder_with_lora
from keepstep.operations.planning.optimizers import optimizer_named
from keepstep.operations.planning.probe import probe
from keepstep.operations.planning.rank_bytes import Sharing
from keepstep.operations.planning.report import Question
from keepstep.operations.planning.tensors import Inventory, dtype_named
from keepstep.operations.simulation.schedule import Schedule
from keepstep.paths import expanded
from keepstep.retention import Metric, Policy

LOSS = Metric("eval_loss", "min")
PROBE_SIZE = 2**30


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The command line as it was typed, quantities read; None for what was left out."""

    source: str | None
    params: int | None
    dtype: str | None
    optimizer: str | None
    master_weights: str
    lora_r: int | None
    lora_target: str | None
    qlora: bool
    weights_only: bool
    world_size: int
    fsdp: int | None
    replicas: int | None
    zero: int | None
    steps: int | None
    save_every: int | None
    eval_every: int | None
    keep: str | None
    limit: int | None
    step_time: float | None
    disk: Path | None
    bandwidth: float | None
    probe_dir: Path | None
    probe_size: int | None
    save_cost: float | None
    mtbf: float | None
    restart_time: float | None
    grace: float | None


def question_of(options: PlanOptions) -> Question:
    """What is to be planned; a probe is written here. Raises click.UsageError, SettingsError, StorageError."""
    _check(options)
    config = _config(options.source)
    optimizer = optimizer_named(options.optimizer or (config.optimizer if config else "adamw"))
    schedule = _schedule(options, config)
    policy = None if schedule is None else _policy(options, config, evaluates=schedule.eval_every is not None)
    target = options.disk or options.probe_dir
    if target is None and config is not None and config.output_dir:
        target = Path(config.output_dir)
    inventory = _inventory(options, config)
    sharing = _sharing(options)
    bandwidth = options.bandwidth
    if options.probe_dir is not None:
        bandwidth = probe(options.probe_dir, options.probe_size or PROBE_SIZE)
    return Question(
        inventory=inventory,
        optimizer=optimizer,
        master_weights=options.master_weights == "fp32",
        weights_only=options.weights_only or (config is not None and config.weights_only),
        world_size=options.world_size if sharing is None else sharing.ranks,
        sharing=sharing,
        schedule=schedule,
        policy=policy,
        seconds_per_step=options.step_time,
        target=target,
        bandwidth=bandwidth,
        save_cost=options.save_cost,
        mtbf=options.mtbf,
        restart=options.restart_time or 0.0,
        grace=options.grace,
        notes=config.notes if config else (),
    )


def _check(options: PlanOptions) -> None:
    """Raises UsageError for options that contradict each other or would do nothing."""
    timed = options.bandwidth is not None or options.probe_dir is not None
    scheduled = _is_yaml(options.source) or options.save_every is not None
    adapted = options.lora_r is not None or _is_yaml(options.source)  # the file may have use_peft
    wrong = {
        "Give a model, a config or a training file, or --params; one of them.": (
            (options.source is None) == (options.params is None)
        ),
        "--fsdp and --world-size are two ways to say the same: give one.": (
            options.fsdp is not None and options.world_size > 1
        ),
        "--replicas needs --fsdp: it says how often its ranks are there.": (
            options.replicas is not None and options.fsdp is None
        ),
        "--zero needs --world-size, the number of ranks: 2 or more.": options.zero is not None
        and options.world_size < 2,
        "--fsdp and --zero are two ways to share a state: give one.": None not in (options.fsdp, options.zero),
        "--zero has fp32 weights in the optimizer's files without --master-weights.": (
            options.zero is not None and options.master_weights == "fp32"
        ),
        "--zero 3 and --weights-only don't go together: DeepSpeed's ranks hold the weights in the optimizer's files.": (
            options.zero == 3 and options.weights_only
        ),
        "--lora-target needs --lora-r.": bool(options.lora_target) and not adapted,
        "--qlora needs --lora-r.": options.qlora and not adapted,
        "--bandwidth and --probe are two ways to know the same: give one.": (
            options.bandwidth is not None and options.probe_dir is not None
        ),
        "--probe-size needs --probe.": options.probe_size is not None and options.probe_dir is None,
        "--mtbf needs the cost of a save: --probe, --bandwidth or --save-cost.": (
            options.mtbf is not None and not timed and options.save_cost is None
        ),
        "--save-cost and --restart-time need --mtbf.": (
            options.mtbf is None and (options.save_cost is not None or options.restart_time is not None)
        ),
        "--grace needs the time of a save: --probe or --bandwidth.": options.grace is not None and not timed,
        "--save-every needs --steps.": (
            options.save_every is not None and options.steps is None and not _is_yaml(options.source)
        ),
        "--steps, --eval-every, --keep and --limit need --save-every.": not scheduled
        and any(option is not None for option in (options.steps, options.eval_every, options.keep, options.limit)),
    }
    for message, found in wrong.items():
        if found:
            raise click.UsageError(message)


def _sharing(options: PlanOptions) -> Sharing | None:
    if options.fsdp is not None:
        return Sharing("fsdp", options.fsdp, options.replicas or 1)
    if options.zero is None:
        return None
    return Sharing("zero-2" if options.zero == 2 else "zero-3", options.world_size)


def _is_yaml(source: str | None) -> bool:
    return source is not None and source.lower().endswith((".yaml", ".yml"))


def _config(source: str | None) -> TrainingConfig | None:
    return read_training_config(expanded(source)) if source and _is_yaml(source) else None


def _inventory(options: PlanOptions, config: TrainingConfig | None) -> Inventory:
    targets = tuple(name.strip() for name in (options.lora_target or "").split(",") if name.strip())
    rank = options.lora_r or (config.lora_rank if config else None)
    quantized = options.qlora or (config is not None and config.quantized)
    if targets and rank is None:
        raise SettingsError(
            f"{options.source} trains no LoRA that --lora-target could name modules of",
            hint="Say its rank: --lora-r 16",
        )
    if options.params is not None:
        dtype = dtype_named(options.dtype or "bf16")
        if rank is None:
            return decoder(options.params, dtype)
        return decoder_with_lora(
            options.params, dtype, rank, targets or DEFAULT_TARGETS, "bf16" if quantized else "fp32"
        )
    # By name: the command line itself must not know torch.
    blueprint = import_module("keepstep.integrations.transformers.exporting.blueprint")
    return blueprint.inventory_of(
        config.model if config else str(options.source),
        dtype=options.dtype or (config.dtype if config else "auto"),
        lora_rank=rank,
        lora_targets=targets or (config.lora_targets if config else ()),
        lora_modules_to_save=config.lora_modules_to_save if config else (),
        lora_dora=config is not None and config.lora_dora,
        quantized=quantized,
    )


def _schedule(options: PlanOptions, config: TrainingConfig | None) -> Schedule | None:
    if config is None:
        if options.steps is None or options.save_every is None:
            return None
        return Schedule(options.steps, options.save_every, options.eval_every)
    steps = options.steps or config.steps
    if config.save_strategy == "no" and options.save_every is None:
        return None
    if steps is None:
        raise SettingsError(
            "the file counts epochs, and without the data nobody knows their steps", hint="Say how many: --steps 3000"
        )
    every = {"steps": config.save_steps, "best": config.eval_steps}.get(config.save_strategy)
    if every is None and options.save_every is None:
        raise SettingsError(
            f"the file saves by {config.save_strategy}, and without the data nobody knows its steps",
            hint="Say how many: --save-every 500",
        )
    evaluates = config.eval_strategy == "steps" or config.save_strategy == "best"
    eval_every = options.eval_every or (_whole(config.eval_steps, steps, "eval_steps") if evaluates else None)
    if config.eval_strategy == "epoch" and eval_every is None:
        eval_every = options.save_every or _whole(every or 0, steps, "save_steps")
    return Schedule(steps, options.save_every or _whole(every or 0, steps, "save_steps"), eval_every)


def _whole(every: float, steps: int, name: str) -> int:
    """Steps of a setting that may be a part of the training, as transformers takes it."""
    if not (0 < every < 1 or (every >= 1 and every == int(every))):
        raise SettingsError(
            f"{name} is {every:g}", hint="It is a whole number of steps, or a part of the training below 1."
        )
    return math.ceil(every * steps) if every < 1 else int(every)


def _policy(options: PlanOptions, config: TrainingConfig | None, *, evaluates: bool) -> Policy:
    metric = LOSS if evaluates else None
    if evaluates and config is not None:
        name = config.metric if config.metric.startswith("eval_") else f"eval_{config.metric}"
        mode = {True: "max", False: "min", None: None}[config.greater_is_better]
        metric = Metric.of(name, mode)  # pyright: ignore[reportArgumentType]
    given = options.keep is not None or options.limit is not None
    return policy_of(options.keep, options.limit if given or config is None else config.limit, metric)
