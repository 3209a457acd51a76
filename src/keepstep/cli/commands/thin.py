"""`keepstep thin`: weights stay, optimizer and random states go."""

from __future__ import annotations

from keepstep.cli.command import command, format_option
from keepstep.cli.commands.unmanaged import type_name, unmanaged_option
from keepstep.cli.drawing.render import Output
from keepstep.cli.many import runs_argument
from keepstep.operations.removing import thinning
from keepstep.operations.removing.unmanaged import thin_unmanaged
from keepstep.run import Run
from keepstep.units import format_size


@command(
    "thin",
    examples=[
        ("keepstep thin runs/sft 300", "checkpoint-300 becomes weights-300"),
        ("keepstep thin runs/sft best", "the best one, once training goes on from a newer one"),
        ("keepstep thin runs/a runs/b best", "the best one of each"),
    ],
)
@runs_argument(reference="required")
@unmanaged_option
@format_option
def thin(run: Run, reference: str, unmanaged: bool, output: Output) -> None:
    """The directory becomes weights-<step>, of the same files: no weight is copied. It can be loaded, but no longer
    resumed from. The newest that can be resumed from is refused, and so is what is pinned or tagged.
    """
    if not run.managed and unmanaged:
        agreed = type_name(run, f"leaves only the weights of {reference}", output)
        act = thin_unmanaged if agreed else None
    else:
        run.must_be_managed()
        act = thinning.thin
    if act is None:
        return
    with output.progress("verifying the recovery point") as progress:
        done = act(run, reference, progress.advance)
    if output.is_json:
        output.json(done.to_json())
    else:
        freed, left = format_size(done.freed_bytes), format_size(done.after.size_bytes)
        output.line((done.before.name, "bold"), f" is {done.after.name} now: {left} of weights, {freed} freed")
