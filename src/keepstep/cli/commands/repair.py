"""`keepstep repair`: show what is lost or damaged of a run's records, ask, and rebuild it."""

from __future__ import annotations

from typing import Any

import click

from keepstep.cli.command import Argument, command, format_option
from keepstep.cli.drawing.render import Output
from keepstep.operations.repairing import Repair, plan_repair
from keepstep.operations.repairing import repair as carry_out
from keepstep.paths import expanded


@command(
    "repair",
    examples=[
        ("keepstep repair runs/sft --dry-run", "what is lost or damaged, and what can be rebuilt"),
        ("keepstep repair runs/sft", "show it, ask, and rebuild it"),
    ],
)
@click.argument(
    "run", cls=Argument, metavar="RUN", explanation="directory of a run, also one without .keepstep or with a torn one"
)
@click.option("--dry-run", is_flag=True, help="Show what is damaged and rebuild nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@format_option
def repair(run: str, dry_run: bool, yes: bool, output: Output) -> None:
    """Looks at run.json, events.jsonl, metrics.jsonl, pins.json, links.json, and at what killed processes left. What
    the manifests or the event log know is written anew; what they don't is said to be lost. What was damaged is kept
    beside it, as events.jsonl.damaged-<date>. Checkpoints are not touched: keepstep verify is for them. Without a
    terminal to ask on, nothing is written unless --yes is given. Takes the run's lock.
    """
    found = plan_repair(expanded(run))
    if not output.is_json:
        _print(found, output)
    done = _carry_out(found, output, yes=yes) if found.mendable and not dry_run else None
    if output.is_json:
        output.json({**(done or found).to_json(), "applied": done is not None}, rows="damaged")
    elif done is not None:
        _report(done, output)


def _carry_out(found: Repair, output: Output, *, yes: bool) -> Repair | None:
    if not (yes or output.agrees("Rebuild this?", nothing="nothing was repaired", way="repair")):
        return None
    return carry_out(found)


def _print(found: Repair, output: Output) -> None:
    output.line((str(found.path), "bold"), f" run {found.run_id}")
    if not found.damaged:
        output.line("Nothing to repair: its records are whole.")
        return
    for record in found.damaged:
        output.line()
        output.line((record.key, "bold"), " ", (record.what, "" if record.mendable else "bold red"))
        facts: list[tuple[str, Any]] = [("repair", record.repair), ("lost", record.lost)]
        facts += [("kept", f"{record.key}.damaged-<date>")] if record.keeps and record.mendable else []
        for name, text in facts:
            if text:
                output.entry([(f"  {name:<7}", "yellow" if name == "lost" else "dim")], [text])
    output.line()


def _report(done: Repair, output: Output) -> None:
    output.line(("Repaired. No checkpoint was touched.", "green"))
    for key in done.kept:
        output.line(f"What was there is kept: {done.path / key}")
