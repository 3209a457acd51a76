"""`keepstep plan`: how large, how many, how long and how often, before the training begins."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from keepstep.cli.command import Argument, command, format_option
from keepstep.cli.commands.questions import PlanOptions, question_of
from keepstep.cli.drawing.plotting import bar, knows_blocks
from keepstep.cli.drawing.quantities import DURATION, PARAMETERS, RATE, SIZE, schedule_options
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count
from keepstep.operations.planning.intervals import Failures
from keepstep.operations.planning.optimizers import OPTIMIZERS
from keepstep.operations.planning.rank_bytes import RankBytes
from keepstep.operations.planning.report import DiskUse, Grace, Report, answer
from keepstep.units import format_duration, format_size

_BAR = 30
_FOLDER = click.Path(path_type=Path)


@command(
    "plan",
    examples=[
        ("keepstep plan --params 13B --optimizer adamw --steps 10000 --save-every 500 --eval-every 500 --limit 3",
         "bytes of a checkpoint, what stays, the peak on disk, bytes written in all"),
        ("keepstep plan models/llama-7b --lora-r 16 --bandwidth 2GB/s --mtbf 8h --step-time 2.5s",
         "exact, from the config; and the interval that loses the least time"),
        ("keepstep plan --params 70B --fsdp 64 --steps 10000 --save-every 500 --limit 2",
         "what each rank writes, and what they need on disk together"),
        ("keepstep plan models/llama-7b --zero 3 --world-size 8",
         "the same of DeepSpeed, whose fp32 partitions are most of it"),
        ("keepstep plan sft.yaml --steps 3000 --probe /scratch/runs --grace 30s",
         "a file of `trl sft --config`, a real write, and whether a preemption leaves time to save"),
    ],
)  # fmt: skip
@click.argument(
    "source",
    cls=Argument,
    metavar="[CONFIG_OR_MODEL]",
    required=False,
    explanation="a model directory, a config.json, a run, a cached hub model, or a YAML file of `trl sft --config`",
)
@click.option("--params", type=PARAMETERS, help="Parameters of a model, such as 13B, in place of a config.")
@click.option(
    "--dtype", type=str, help="What weights are held in: bf16, fp16 or fp32; by default the config's, or bf16."
)
@click.option("--optimizer", metavar="NAME", help=f"One of {', '.join(OPTIMIZERS)}, or transformers' name of it.")
@click.option(
    "--master-weights",
    type=click.Choice(["none", "fp32"]),
    default="none",
    show_default=True,
    help="fp32: the optimizer saves an fp32 copy of the weights, and fp32 state (DeepSpeed, Megatron).",
)
@click.option("--lora-r", type=click.IntRange(min=1), help="Train a LoRA of this rank; only the adapter is saved.")
@click.option("--lora-target", metavar="NAMES", help="Modules that it adapts, or all-linear; by default PEFT's choice.")
@click.option("--qlora", is_flag=True, help="The base is quantized, and the adapter in bf16, as TRL makes it.")
@click.option("--weights-only", is_flag=True, help="save_only_model: without what a resume needs.")
@click.option("--world-size", type=click.IntRange(min=1), default=1, help="Processes; each saves its random state.")
@click.option("--fsdp", type=click.IntRange(min=1), metavar="RANKS",
              help="So many ranks shard the model, and each writes its shards (FSDP, SHARDED_STATE_DICT).")  # fmt: skip
@click.option("--replicas", type=click.IntRange(min=1), metavar="COUNT",
              help="With --fsdp: so many times its ranks; each shard is there so often (HSDP).")  # fmt: skip
@click.option("--zero", type=click.IntRange(2, 3), metavar="STAGE",
              help="The --world-size ranks share the state by DeepSpeed's ZeRO, stage 2 or 3.")  # fmt: skip
@schedule_options(required=False)
@click.option("--disk", type=_FOLDER, help="Where the run will be; its free space is compared with the peak.")
@click.option("--bandwidth", type=RATE, help="Bytes per second that the disk writes durably, such as 2GB/s.")
@click.option("--probe", "probe_dir", type=_FOLDER, help="Measure that by a real write into this directory.")
@click.option("--probe-size", type=SIZE, help="Bytes of that write; 1GiB by default.")
@click.option("--mtbf", type=DURATION, help="Mean time between failures or preemptions, such as 8h.")
@click.option("--save-cost", type=DURATION, help="Training time that a save costs; by default the time of writing one.")
@click.option("--restart-time", type=DURATION, help="Time from a failure until training goes on; none by default.")
@click.option("--grace", type=DURATION, help="Time between a preemption's signal and the kill, such as 30s.")
@format_option
@click.pass_context
def plan(ctx: click.Context, /, *, output: Output, **options: Any) -> None:
    """Nothing is loaded and no weights are needed. From --params alone, shapes are a rule of thumb, and that is said;
    from a config they are those of the model. Exit code 1 when the peak does not fit on the disk, or the grace period
    is too short to save.
    """
    report = answer(question_of(PlanOptions(**options)))
    if output.is_json:
        output.json(report.to_json())
    else:
        _print(report, output)
    for note in report.question.notes:
        output.note(f"note: {note}")
    short = report.grace is not None and not report.grace.enough
    full = report.disk is not None and report.disk.fits is False
    if short or full:
        ctx.exit(1)


def _print(report: Report, output: Output) -> None:
    _print_sizes(report, output)
    if report.ranks:
        _print_ranks(report, output)
    if report.disk is not None:
        _print_disk(report, report.disk, output)
    if report.write_seconds is not None:
        rate = f"{format_size(round(report.question.bandwidth or 0))}/s"
        output.line()
        output.line(f"One save takes {format_duration(report.write_seconds)} to be durable at {rate}.")
    if report.failures is not None:
        _print_interval(report, report.failures, output)
    if report.grace is not None:
        _print_grace(report.grace, output)


def _print_sizes(report: Report, output: Output) -> None:
    question, size = report.question, report.size
    inventory = question.inventory
    master = ", fp32 master weights" if question.master_weights else ""
    output.line((inventory.description, "bold"), f", {question.optimizer.name}{master}")
    output.line()
    adapter = "of the adapter" if inventory.adapter else "of the model"
    rows = [
        ("weights", size.weights, adapter),
        ("optimizer", size.optimizer, f"of {inventory.trained_parameters:,} trained values"),
        ("other", size.other, "random states, trainer state, config, tokenizer, manifest"),
        ("total", size.total, "per checkpoint"),
    ]
    if question.weights_only:
        del rows[1]
    columns = (Column("Part"), Column("Size", "right"), Column("Bytes", "right"), Column("", folds=True))
    cells = tuple(
        (Cell.of(name, "bold" if name == "total" else ""), Cell.of(format_size(n)), Cell.of(f"{n:,}"), Cell.of(what))
        for name, n, what in rows
    )
    output.table(Table(columns, cells))
    if not inventory.exact:
        output.line(("Shapes are a rule of thumb here; a model's config gives exact ones.", "dim"))


def _print_ranks(report: Report, output: Output) -> None:
    columns = (
        Column("Rank", essential=True), Column("Weights", "right"), Column("Optimizer", "right"),
        Column("Other", "right"), Column("Writes", "right", essential=True),
    )  # fmt: skip
    rows = (
        (str(one.first) if one.count == 1 else f"{one.first} to {one.last}", *map(format_size, _parts(one)))
        for one in report.ranks
    )
    output.line()
    output.table(Table(columns, tuple(tuple(map(Cell.of, row)) for row in rows)))
    output.line(_of_sharing(report))


def _of_sharing(report: Report) -> str:
    """What a reader of the ranks' sizes may take for what it is not."""
    sharing, size = report.question.sharing, report.size
    weights = format_size(sum(tensor.nbytes for tensor in report.question.inventory.saved))
    if sharing is not None and sharing.by == "zero-2":
        return (
            f"Rank 0 writes the weights, twice: {weights} in DeepSpeed's file and in the model's. Each rank writes its "
            "part of the fp32 weights and of the moments. Only as many ranks can resume."
        )
    if sharing is not None and sharing.by == "zero-3":
        return (
            "The weights are in the optimizer's files, in fp32, and nowhere else. Only as many ranks can resume. With "
            f"stage3_gather_16bit_weights_on_model_save rank 0 writes {weights} more."
        )
    gathered = format_size(size.weights + size.optimizer)
    return (
        f"Gathered on rank 0 instead (FULL_STATE_DICT), {gathered} would go through one process, and the weights would "
        "be on disk twice."
    )


def _parts(one: RankBytes) -> tuple[int, int, int, int]:
    return one.weights, one.optimizer, one.other, one.total


def _print_disk(report: Report, disk: DiskUse, output: Output) -> None:
    policy = report.question.policy
    assert policy is not None
    output.line()
    thinned = f", {disk.kept.thinned} of them thinned to weights" if disk.kept.thinned else ""
    kept = f"at most {count(disk.kept.count, 'checkpoint')}{thinned}, {format_size(report.bytes_of(disk.kept))}"
    output.line(("Kept", "bold"), f": {policy.describe()}: {kept}.")
    columns = (Column("Phase of a save", folds=True), Column("Checkpoints", "right"), Column("On disk", "right"))
    rows = tuple(
        (
            Cell.of(p.name),
            Cell.of(str(p.checkpoints)),
            Cell.of(format_size(p.bytes(report.size.total, report.size.thinned))),
        )
        for p in disk.phases
    )
    output.line()
    output.table(Table(columns, rows))
    if disk.free is not None:
        over = disk.peak - disk.free
        verdict = ("fits", "green") if over <= 0 else (f"does not fit: {format_size(over)} are missing", "bold red")
        where = f" ({format_size(disk.free)} free at {report.question.target})."
        output.line(f"The peak of {format_size(disk.peak)} ", verdict, where)
    more = f", and at most {disk.more_saves} more for new bests between them" if disk.more_saves else ""
    written = "written in all" + (" at most" if more else "")
    output.line(f"{count(disk.saves, 'save')}{more}: {format_size(disk.written)} {written}.")


def _print_interval(report: Report, failures: Failures, output: Output) -> None:
    blocks = knows_blocks(sys.stdout.encoding)
    named = [("Young 1974", failures.young()), ("Daly 2006", failures.daly()), ("least time lost", failures.optimum())]
    if report.interval is not None:
        named.append(("as scheduled", report.interval))
    output.line()
    output.line(
        ("How often to save", "bold"),
        f": a failure every {format_duration(failures.mtbf)}, {format_duration(failures.save_cost)} for a save.",
    )
    output.line()
    rows = [(name, seconds, failures.overhead(seconds)) for name, seconds in named]
    rows += [("", seconds, overhead) for seconds, overhead in failures.curve()]
    most = max((o for _, _, o in rows[len(named) :] if math.isfinite(o)), default=0)
    columns = (
        Column("", essential=True), Column("Save every", "right", essential=True), Column("Steps", "right"),
        Column("Time lost", "right", essential=True), Column("Curve"),
    )  # fmt: skip
    cells = tuple(
        (
            Cell.of(name, "bold"),
            Cell.of(format_duration(seconds)),
            Cell.of("" if (steps := report.steps(seconds)) is None else f"{steps:,}"),
            Cell.of(f"{overhead:.2%}" if math.isfinite(overhead) else "no end"),
            Cell.of("" if name else bar(overhead, most, _BAR, blocks=blocks), "cyan"),
        )
        for name, seconds, overhead in rows
    )
    output.table(Table(columns, cells).informative())


def _print_grace(grace: Grace, output: Output) -> None:
    output.line()
    needed, behind = format_duration(grace.needed), format_duration(grace.with_one_in_flight)
    period = f"The grace period of {format_duration(grace.period)} "
    if grace.always_enough:
        output.line(period, ("is long enough", "green"), f": a save needs {needed}, {behind} behind another one.")
    elif grace.enough:
        output.line(
            period, ("is long enough only while no other save is in flight", "yellow"), f": {needed}, else {behind}."
        )
    else:
        output.line(period, ("is too short to save", "bold red"), f": that needs {needed}.")
