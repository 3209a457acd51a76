"""`keepstep status`: a run in a few lines, or as JSON for schedulers."""

from __future__ import annotations

from datetime import UTC, datetime

from keepstep.cli.command import command, format_option, run_argument
from keepstep.cli.drawing.render import Output
from keepstep.operations.seeing.status import Status, status_of
from keepstep.run import Run
from keepstep.units import format_age, format_duration, format_moment, format_size


@command(
    "status",
    examples=[
        ("keepstep status runs/sft", "alive or not, how far, how fast, what is saved, what a resume would use"),
        ("keepstep status runs/sft --format json | jq -e .alive", "in a script: exit code 1 when nobody trains"),
    ],
)
@run_argument
@format_option
def status(run: Run, output: Output) -> None:
    """Looks on and takes no lock. A training on another host counts as alive while it shows signs of life.

    What a resume would use is told by the manifests; `keepstep resume` verifies every byte.
    """
    found = status_of(run)
    if output.is_json:
        output.json({"path": str(run.path), **found.to_json()})
        return
    for name, text in _lines(found):
        output.line((f"{name:<12}", "bold"), text)


def _lines(found: Status) -> list[tuple[str, str]]:
    figures, now = found.figures, datetime.now(UTC)
    lines = [("State", figures.activity.value)]
    if found.holder is not None:
        holder = found.holder
        where = f"process {holder.pid} on {'this host' if holder.here else holder.host}"
        lines.append(("Holder", f"{where}, since {format_moment(holder.since)}"))
    if found.last_sign is not None:
        lines.append(("Last sign", f"{format_age(found.last_sign, now)} ago"))
    if figures.step is not None:
        share = f" of {figures.max_steps:,} ({figures.step / figures.max_steps:.0%})" if figures.max_steps else ""
        lines.append(("Step", f"{figures.step:,}{share}"))
    if found.alive and found.pace is not None:
        left = f", {format_duration(found.eta)} left" if found.eta is not None else ""
        lines.append(("Speed", f"{format_duration(found.pace)} a step{left}"))
    if figures.latest is not None:
        latest = figures.latest
        lines.append(("Last commit", f"{latest.name}, {format_age(latest.created, now)} ago"))
    if found.saving is not None:
        step = "a step" if found.saving.step is None else f"step {found.saving.step:,}"
        lines.append(("Saving", f"{step}, {format_size(found.saving.bytes)} so far"))
    if found.next_save is not None:
        due = found.next_save
        when = f", in {format_duration(due.eta)}" if due.eta is not None else ""
        lines.append(("Next save", f"step {due.step:,}{when}"))
    if figures.best is not None and figures.metric is not None:
        lines.append(("Best", f"{figures.best.name}, by {figures.metric.name}"))
    kept = f"{figures.checkpoints} kept, {format_size(figures.size_bytes)}"
    lines.append(("Disk", f"{kept}; {format_size(figures.free_bytes)} of {format_size(found.total_bytes)} free"))
    if found.mirror is not None:
        lines.append(("Mirror", found.mirror.text))
    resume = "nothing" if found.resumes_from is None else f"{found.resumes_from.name} (not verified here)"
    lines.append(("Resume from", resume))
    return lines
