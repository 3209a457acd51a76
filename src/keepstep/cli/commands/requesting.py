"""`keepstep save-now` and `keepstep stop`: what is asked of a training that runs."""

from __future__ import annotations

import click

from keepstep.cli.command import command, format_option, run_argument
from keepstep.cli.drawing.render import Output
from keepstep.operations.requesting import answers, ask
from keepstep.run import Event, Run, Wish
from keepstep.units import parse_duration


@command(
    "save-now",
    examples=[
        ("keepstep save-now runs/sft", "the step under way is saved at its end"),
        ("keepstep save-now runs/sft --wait", "come back when it is committed"),
    ],
)
@run_argument
@click.option("--wait", is_flag=True, help="Come back when it is answered; exit code 1 where it was not saved.")
@click.option("--timeout", metavar="DURATION", default="10min", show_default=True, help="How long --wait waits.")
@format_option
def save_now(run: Run, wait: bool, timeout: str, output: Output) -> None:
    """The request lies below .keepstep/requests/, is seen at the end of a step, and answered in the event log."""
    _ask(run, "save", wait, timeout, output)


@command(
    "stop",
    examples=[
        ("keepstep stop runs/sft", "the step under way is finished and saved, then train() ends as at a SIGTERM"),
        ("keepstep stop runs/sft --wait && sbatch other.sh", "go on when the run is free"),
    ],
)
@run_argument
@click.option("--wait", is_flag=True, help="Come back when it is answered; exit code 1 where it ended otherwise.")
@click.option("--timeout", metavar="DURATION", default="10min", show_default=True, help="How long --wait waits.")
@format_option
def stop(run: Run, wait: bool, timeout: str, output: Output) -> None:
    """As by a signal: nothing is lost, and train(resume_from_checkpoint="auto") goes on."""
    _ask(run, "stop", wait, timeout, output)


def _ask(run: Run, what: Wish, wait: bool, timeout: str, output: Output) -> None:
    patience = parse_duration(timeout, "--timeout")
    request = ask(run, what)
    facts: Event = {"event": "asked", "id": request.id, "what": what}
    if not wait:
        if output.is_json:
            output.json(facts)
        else:
            output.line(f"asked; seen at the end of the step under way (keepstep events {run.path})")
        return
    with output.progress("waiting for the end of the step") as progress:
        for event in answers(run, request, patience):
            facts = event
            progress.describe("seen; " + ("being saved" if what == "save" else "stopping"))
    if output.is_json:
        output.json(facts)
    else:
        output.line(str(facts.get("answer", "")))
    if not facts.get("done"):
        raise click.exceptions.Exit(1)
