"""`keepstep branch`: a new run from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from keepstep.cli.command import Argument, command, format_option, reference_argument, run_argument
from keepstep.cli.drawing.render import Output
from keepstep.operations.branching import branch as carry_out
from keepstep.operations.branching import linked, plan_branch
from keepstep.paths import expanded
from keepstep.run import Run
from keepstep.units import format_size


@command(
    "branch",
    examples=[
        ("keepstep branch runs/sft 300 runs/sft-lower-lr", "a run of its own that goes on from step 300"),
        ("keepstep branch runs/sft best runs/second-try --dry-run", "which one that is, and what it would take"),
        ("keepstep branch runs/sft gen:7 runs/what-if", "from one that a rewind has set aside"),
        ("keepstep branch stock-run latest runs/managed", "a managed run from a checkpoint that others wrote"),
    ],
)
@run_argument
@reference_argument()
@click.argument(
    "directory", cls=Argument, metavar="NEWDIR", explanation="the new run's output_dir: new, or without a run in it"
)
@click.option("--dry-run", is_flag=True, help="Show it and write nothing.")
@format_option
def branch(run: Run, reference: str, directory: str, dry_run: bool, output: Output) -> None:
    """A training with output_dir=NEWDIR and resume "auto" goes on from there as the old one would have. The checkpoint
    is verified, and its files get further names in NEWDIR, which takes no room; on another file system they are copied.
    Both event logs say what came from where. RUN is left as it is, and what its training removes later stays in NEWDIR.
    A branch that is interrupted leaves no run, and can be begun again.
    """
    found = plan_branch(run, reference, expanded(Path(directory)))
    new: Run | None = None
    if not dry_run:
        with output.progress("branching", found.reads_bytes) as progress:
            new = carry_out(found, on_start=progress.describe, on_bytes=progress.advance)
    if output.is_json:
        done = {} if new is None else {"links": linked(found, new)}
        output.json({**found.to_json(), **done, "applied": new is not None, "new_run_id": new.id if new else None})
        return
    step, size = found.checkpoint.step, format_size(found.size_bytes)
    links = found.links if new is None else linked(found, new)
    how = f"links to the same {size}, which take no room" if links else f"{size} copied"
    if new is None:
        output.line((f"Would begin a run in {found.target} with step {step} of {run.path}: {how}.", "bold"))
        return
    output.line((f"Run {new.id} begins in {found.target} with step {step} of {run.path}: {how}.", "green"))
    output.line(f'Go on from there: output_dir="{found.target}", resume_from_checkpoint="auto"')
