"""`keepstep slurm`: a job for SLURM, ready for sbatch."""

from __future__ import annotations

import click

from keepstep.cli.command import CHILD, command
from keepstep.errors import SettingsError
from keepstep.units import parse_duration


@command(
    "slurm",
    examples=[
        (
            "keepstep slurm --time 4:00:00 -- python train.py --output_dir {run} > train.sbatch",
            "then: sbatch train.sbatch",
        ),
        ("keepstep slurm --array 0-7 --gpus 1 -- python train.py --output_dir {run}", "a run for each task"),
    ],
    takes_command="COMMAND... {run}",
)
@click.option("--name", default="train", show_default=True, help="Name of the job.")
@click.option("--time", default="24:00:00", show_default=True, help="As sbatch takes it.")
@click.option("--gpus", type=click.IntRange(0), default=1, show_default=True, help="GPUs, all on one node.")
@click.option("--cpus", type=click.IntRange(1), default=8, show_default=True, help="Cores.")
@click.option("--partition", metavar="NAME", help="Partition.")
@click.option("--array", metavar="TASKS", help="Tasks of an array: 0-7.")
@click.option("--notice", metavar="TIME", default="5m", show_default=True, help="Time to save, before the end.")
@click.option("--root", metavar="DIR", default="runs", show_default=True, help="Directory of the runs.")
@click.option("--no-attach", is_flag=True, help="The script manages its trainers by itself.")
@click.pass_context
def slurm(ctx: click.Context, *, notice: str, no_attach: bool, **asked: object) -> None:
    """Behind -- stands the training command; {run} is the directory of its run, one for each job and each task of an
    array. The job runs it under `keepstep run`, hears of its end before it comes, hands that on, and goes back into the
    queue when the training has saved and stopped (exit code 75). One node.
    """
    from keepstep.supervision.slurm import SlurmJob

    words: list[str] = ctx.meta.get(CHILD, [])
    if not words:
        raise SettingsError("there is no command", hint="Give it behind --: keepstep slurm -- python train.py {run}")
    seconds = max(int(parse_duration(notice, "--notice")), 1)
    fields: dict[str, object] = {"notice": seconds, "options": () if no_attach else ("--attach",), **asked}
    click.echo(SlurmJob(tuple(words), **fields).script(), nl=False)  # pyright: ignore[reportArgumentType]
