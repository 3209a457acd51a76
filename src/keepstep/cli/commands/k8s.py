"""`keepstep k8s`: a Job for Kubernetes, ready for kubectl."""

from __future__ import annotations

import click

from keepstep.cli.command import CHILD, command
from keepstep.errors import SettingsError
from keepstep.units import parse_duration


@command(
    "k8s",
    examples=[
        (
            "keepstep k8s --image me/train:1 --claim runs -- python train.py --output_dir /runs/a | kubectl apply -f -",
            "a Job whose runs are on the volume claim `runs`",
        ),
    ],
    takes_command="COMMAND...",
)
@click.option("--image", required=True, help="Image, with keepstep in it.")
@click.option("--claim", required=True, help="Persistent volume claim, mounted at /runs.")
@click.option("--name", default="train", show_default=True, help="Name of the Job.")
@click.option("--gpus", type=click.IntRange(0), default=1, show_default=True, help="GPUs.")
@click.option("--retries", type=click.IntRange(0), default=6, show_default=True, help="Pods that may fail.")
@click.option("--grace", metavar="TIME", default="5m", show_default=True, help="Time to save, once told to stop.")
@click.option("--no-attach", is_flag=True, help="The script manages its trainers by itself.")
@click.pass_context
def k8s(ctx: click.Context, *, grace: str, no_attach: bool, **asked: object) -> None:
    """Behind -- stands the training command. The Job runs it under `keepstep run`, which is PID 1: it is told to stop,
    saves, and exits with 75. Disrupted and preempted pods don't count as failures; wrong settings and refused resumes
    fail the Job at once. It needs Kubernetes 1.31 or newer, or 1.26 with podFailurePolicy on.
    """
    from keepstep.supervision.kubernetes import KubernetesJob

    words: list[str] = ctx.meta.get(CHILD, [])
    if not words:
        raise SettingsError("there is no command", hint="Give it behind --: keepstep k8s … -- python train.py")
    seconds = max(int(parse_duration(grace, "--grace")), 1)
    fields: dict[str, object] = {"grace": seconds, "options": () if no_attach else ("--attach",), **asked}
    click.echo(KubernetesJob(tuple(words), **fields).manifest(), nl=False)  # pyright: ignore[reportArgumentType]
