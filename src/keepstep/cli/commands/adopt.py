"""`keepstep adopt`: a managed run of a directory that others wrote."""

from __future__ import annotations

from pathlib import Path

import click

from keepstep.checkpointer import lower_priority
from keepstep.cli.command import Argument, command, format_option
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count
from keepstep.operations.adopting import Adoption, plan_adoption
from keepstep.operations.adopting import adopt as adopt_as_shown
from keepstep.paths import expanded
from keepstep.run import Run
from keepstep.units import align_numbers, format_size


@command(
    "adopt",
    examples=[
        ("keepstep adopt runs/old --dry-run", "what would be adopted, in which order, and what is torn"),
        ("keepstep adopt runs/old", "show it, ask, and do it"),
        ("keepstep adopt runs/old --yes --nice", "from a script, beside other work on the machine"),
    ],
)
@click.argument("directory", cls=Argument, metavar="DIR", explanation="directory with checkpoints: an output_dir")
@click.option("--dry-run", is_flag=True, help="Show it and write nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@click.option("--nice", is_flag=True, help="Let other programs go first, on the processor and on the disk.")
@format_option
def adopt(directory: str, dry_run: bool, yes: bool, nice: bool, output: Output) -> None:
    """Every byte of what is whole is read once, and a manifest written beside it (keepstep.json): from then on it is
    verified, ranked, pruned and resumed from like any other. Nothing is moved and nothing removed; everything is kept
    until a training or a prune says otherwise. What is torn is named, and stays as it is. An adoption that was
    interrupted goes on where it was. Without a terminal to ask on, nothing is written unless --yes is given. No
    training may run in the directory: the stock Trainer can't be asked, so look before.
    """
    found = plan_adoption(expanded(Path(directory)))
    if not output.is_json:
        _print(found, output)
    run = None if dry_run else _carry_out(found, output, yes=yes, nice=nice)
    if output.is_json:
        output.json(
            {**found.to_json(), "applied": run is not None, "run_id": run.id if run else None}, rows="checkpoints"
        )
    elif run is not None:
        output.line((f"Adopted {count(len(found.checkpoints), 'checkpoint')} as run {run.id}.", "green"))
        output.line(f"See them: keepstep ls {run.path}")


def _print(found: Adoption, output: Output) -> None:
    metric = found.policy.metric
    ranked = f", ranked by {metric.name} ({metric.direction})" if metric else ""
    output.line((str(found.path), "bold"), f" is not managed; this makes it a run that keeps everything{ranked}")
    output.line()
    output.table(_table(found))
    output.line()
    before = f"; {len(found.done)} were adopted before" if found.done else ""
    log = f", and {count(found.records, 'record')} of its log" if found.records else ""
    what = f"{count(len(found.left), 'checkpoint')}, {format_size(found.size_bytes)} to read{log}"
    output.line((f"Adopts {what}{before}.", "bold"))
    for torn in found.torn:
        output.line(f"left as it is: {torn.checkpoint.path}: {'; '.join(torn.flaws)}")


def _table(found: Adoption) -> Table:
    metric = found.policy.metric
    columns = (
        Column("Generation", "right"),
        Column("Step", "right", essential=True),
        Column("Course", "right"),
        Column(metric.name if metric else "Metric", "right", folds=True, minimum=12),
        Column("Size", "right"),
        Column("Directory", folds=True, essential=True),
    )
    values = align_numbers([metric.value(c.metrics) if metric else None for c in found.checkpoints])
    rows = (
        (
            Cell.of(str(c.generation)),
            Cell.of(str(c.step), "bold"),
            Cell.of(str(c.timeline)),
            Cell.of(value),
            Cell.of(format_size(c.size_bytes)),
            Cell.of(c.path.name if c.path else ""),
        )
        for c, value in zip(found.checkpoints, values, strict=True)
    )
    return Table(columns, tuple(rows)).informative()


def _carry_out(found: Adoption, output: Output, *, yes: bool, nice: bool) -> Run | None:
    if not (yes or output.agrees("Adopt?", nothing="nothing was written", way="adopt")):
        return None
    if nice:
        lower_priority()
    with output.progress("adopting", found.size_bytes) as progress:
        return adopt_as_shown(
            found,
            on_start=lambda checkpoint: progress.describe(f"step {checkpoint.step}"),
            on_bytes=progress.advance,
        )
