"""`keepstep mirror`: a run's second home, in an object store or a directory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from keepstep.cli.command import Argument, command, format_option, group, run_argument
from keepstep.cli.commands.mirror_policy import policy
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count
from keepstep.errors import CheckpointCorrupt, RunNotFound
from keepstep.mirror import Mirror, MirrorRun, Pace, Record, RecordCache, check, open_mirror, read_notes
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import MirrorPlan, plan_mirror
from keepstep.operations.mirroring.status import status as status_of
from keepstep.operations.mirroring.syncing import Synced, forget, row, sync
from keepstep.operations.mirroring.syncing import prune as prune_there
from keepstep.operations.removing.pruning import policy_for
from keepstep.paths import expanded
from keepstep.retention import Policy
from keepstep.run import Run, policy_said, read_note
from keepstep.units import format_duration, format_number, format_size, parse_size

_URLS = "s3://bucket/path, gs://bucket/path, az://container/path, hf://buckets/namespace/name/path, or a directory"


@group(
    "mirror",
    examples=[
        ("keepstep mirror sync runs/sft s3://bucket/team/sft", "send what is missing there"),
        ("keepstep mirror status runs/sft s3://bucket/team/sft", "how far it is behind"),
        ("keepstep mirror pull s3://bucket/team/sft runs/sft", "the newest, on a machine that has nothing"),
        ("keepstep mirror verify /mnt/backup/sft", "read everything back, and compare"),
    ],
)
def mirror() -> None:
    """A mirror holds commits as the run does: a checkpoint counts there once its record is written, which is last. What
    is sent is compared with the manifest's digests on its way, and so is what comes back. Writers claim the mirror,
    and a later one ends an earlier one. Below data/ lie plain directories, which other tools can download.

    Object stores need the extra: pip install "keepstep[s3]". Credentials come from the environment (AWS_ACCESS_KEY_ID,
    AWS_ENDPOINT_URL, AWS_REGION, GOOGLE_…, AZURE_…), and an AWS profile where boto3 is installed.
    """


def _mirror(context: click.Context, param: click.Parameter, value: str) -> Mirror:
    found = open_mirror(value if "://" in value else expanded(Path(value)))
    run = context.params.get("run")
    url = found.url
    found.remember(RecordCache.of_user(url) if run is None else RecordCache.of_run(run.store, url))
    return found


_url = click.argument("url", cls=Argument, metavar="URL", explanation=_URLS, callback=_mirror)
_jobs = click.option("--jobs", type=click.IntRange(1, 64), default=None, help="Transfers at once.")
_keep = click.option("--keep", metavar="SPEC", help="What stays there: best:3,latest:1; the run's policy by default.")


@command(
    "sync",
    of="mirror",
    examples=[
        ("keepstep mirror sync runs/sft s3://bucket/team/sft", "newest first; what is there is not sent again"),
        ("keepstep mirror sync runs/sft /mnt/backup/sft --keep best:3,latest:1", "a policy of its own"),
        ("keepstep mirror sync runs/sft s3://bucket/team/sft --bandwidth 50MB --dry-run", "what would go"),
    ],
)
@run_argument
@_url
@_keep
@click.option("--bandwidth", metavar="SIZE", help="No more than so much a second: 50MB.")
@_jobs
@click.option("--dry-run", is_flag=True, help="Show it, and write nothing.")
@format_option
def sync_(
    *, run: Run, url: Mirror, keep: str | None, bandwidth: str | None, jobs: int | None, dry_run: bool, output: Output
) -> None:
    """Send what the policy keeps and the mirror lacks, newest first, then remove there what the policy drops; never the
    newest that can be resumed from. Without --keep it keeps what the training's mirror_keep said, for the same URL.
    A training that mirrors there sends by itself, and this is refused beside it; beside any other it may run.
    A file that was sent whole is not sent again after an interruption. What is damaged here is not sent, and said; the
    exit code is 4 then.
    """
    run.must_be_managed()
    note = read_note(run.store)
    if keep is None and note is not None and note.url == url.url:
        keep = note.keep
    kept = policy_for(run, keep, None, None)
    pace = Pace(None if bandwidth is None else parse_size(bandwidth.removesuffix("/s"), "--bandwidth"))
    with suppress(RunNotFound):
        url.require(run.id)
    records = url.records()
    plan = plan_mirror(run, url, records, kept)
    if dry_run:
        _show(plan, url, output)
        return
    with output.progress("mirroring", plan.push_bytes) as progress:
        more: dict[str, Any] = {} if jobs is None else {"jobs": jobs}
        done = sync(run, url, kept, plan, pace=pace, on_start=progress.describe, on_bytes=progress.advance, **more)
    _report(done, url, output)
    if done.failed:
        raise CheckpointCorrupt(
            f"{count(len(done.failed), 'checkpoint')} could not be mirrored", hint=done.failed[0][1]
        )


@command("status", of="mirror", examples=[("keepstep mirror status runs/sft s3://bucket/team/sft", "lag and rest")])
@run_argument
@_url
@_keep
@format_option
def status(run: Run, url: Mirror, keep: str | None, output: Output) -> None:
    """What is there, what is missing, and how much a machine without this disk would lose. Nothing is written."""
    run.must_be_managed()
    url.require(run.id)
    found = status_of(run, url, policy_for(run, keep, None, None))
    if output.is_json:
        output.json(found.to_json())
        return
    size = format_size(sum(record.checkpoint.size_bytes for record in found.records))
    output.line((found.url, "bold"), f" holds {count(len(found.records), 'checkpoint')}, {size}")
    if found.records:
        newest = found.records[0].checkpoint
        output.line(f"newest      step {newest.step}, generation {newest.generation}")
    if found.lag_seconds is None:
        output.line(("nothing there can be resumed from", "bold yellow"))
    elif found.lag_seconds:
        output.line(f"behind      {found.lag_steps} steps, saved {format_duration(found.lag_seconds)} ago")
    else:
        output.line(("up to date  a machine without this disk would lose nothing that is committed", "green"))
    if found.plan.push:
        output.line(f"missing     {count(len(found.plan.push), 'checkpoint')}, {format_size(found.plan.push_bytes)}")


@command("ls", of="mirror", examples=[("keepstep mirror ls s3://bucket/team/sft", "newest first")])
@_url
@format_option
def ls(url: Mirror, output: Output) -> None:
    """The commits there. No run is needed."""
    url.run_id()
    records = url.records()
    if output.is_json:
        output.json({"url": url.url, "checkpoints": [row(record) for record in records]}, rows="checkpoints")
        return
    if not records:
        output.line(f"{url.url} holds no checkpoint.")
        return
    output.table(_table(records))


@command(
    "pull",
    of="mirror",
    examples=[
        ("keepstep mirror pull s3://bucket/team/sft runs/sft", "the newest that can be resumed from"),
        ("keepstep mirror pull s3://bucket/team/sft runs/sft best", "the best one"),
        ("keepstep mirror pull s3://bucket/team/sft runs/sft 300 --dry-run", "what would come"),
    ],
)
@_url
@click.argument("directory", cls=Argument, metavar="DIR", explanation="the run's output_dir: new, or of the same run")
@click.argument(
    "reference", cls=Argument, metavar="[REF]", default="latest", explanation="latest, best, a step, or gen:N"
)
@_jobs
@click.option("--dry-run", is_flag=True, help="Show it, and write nothing.")
@format_option
def pull(*, url: Mirror, directory: str, reference: str, jobs: int | None, dry_run: bool, output: Output) -> None:
    """Ranges come side by side, each compared with its digest, and the checkpoint is committed as a save is: a training
    with output_dir=DIR and resume "auto" goes on from there. Where the newest is damaged in the mirror, the next older
    comes in its place, and that is said. A run that has a newer one stays as it is.
    """
    found = plan_pull(url, expanded(Path(directory)), reference)
    step, size = found.record.checkpoint.step, format_size(found.record.checkpoint.size_bytes)
    if dry_run or found.settled:
        if output.is_json:
            output.json({**found.to_json(), "applied": False})
        else:
            would = f"Would bring step {step} of {url.url} to {found.target}: {size}."
            output.line(f"Nothing to bring: {found.settled}." if found.settled else would)
        return
    passed: list[str] = []
    with output.progress("pulling", found.record.checkpoint.size_bytes) as progress:
        more: dict[str, Any] = {} if jobs is None else {"jobs": jobs}
        here = bring(
            url, found, on_start=progress.describe, on_bytes=progress.advance, on_damage=passed.append,
            older=reference == "latest", **more,
        )  # fmt: skip
    for text in passed:
        output.note(text)
    if here is None:
        if output.is_json:
            output.json({**found.to_json(), "applied": False, "passed": passed})
        else:
            output.line(f"Nothing to bring: what {found.target} has is as new as what is whole in the mirror.")
        return
    if output.is_json:
        output.json({**found.to_json(), "applied": True, "step": here.step, "path": str(here.path), "passed": passed})
        return
    output.line((f"Step {here.step} of {url.url} is {here.path}: every byte compared.", "green"))
    output.line(f'Go on from there: output_dir="{found.target}", resume_from_checkpoint="auto"')


@command(
    "verify",
    of="mirror",
    examples=[
        ("keepstep mirror verify s3://bucket/team/sft", "every byte of everything"),
        ("keepstep mirror verify s3://bucket/team/sft latest", "of the newest alone"),
        (
            "keepstep mirror verify s3://bucket/team/sft --drop",
            "remove what is damaged, for the next sync to send anew",
        ),
    ],
)
@_url
@click.argument("reference", cls=Argument, metavar="[REF]", default="", explanation="latest, a step, or gen:N; all")
@click.option("--drop", is_flag=True, help="Remove there what is damaged, so that the next sync sends it anew.")
@_jobs
@format_option
def verify(*, url: Mirror, reference: str, drop: bool, jobs: int | None, output: Output) -> None:
    """Read back what is there, and compare every byte with the manifests. Nothing is written without --drop. Exit code
    4 where something is wrong.
    """
    there = Mirror(url.objects)  # knows no record that was kept here
    there.run_id()
    records = (there.find(reference),) if reference else there.records()
    unread = () if reference else there.damaged
    more: dict[str, Any] = {} if jobs is None else {"jobs": jobs}
    problems: dict[int, tuple[str, ...]] = {}
    with output.progress("verifying", sum(record.checkpoint.size_bytes for record in records)) as progress:
        for record in records:
            progress.describe(record.checkpoint.name)
            problems[record.name.generation] = check(there, record, on_bytes=progress.advance, **more)
    if output.is_json:
        rows = [{**row(record), "problems": problems[record.name.generation]} for record in records]
        damaged_records = [name.key for name in unread]
        output.json({"url": url.url, "checkpoints": rows, "damaged_records": damaged_records}, rows="checkpoints")
    else:
        for name in unread:
            output.line((f"gen:{name.generation}  ", "bold"), "its record is damaged: nobody can bring it back")
        for record in records:
            found = problems[record.name.generation]
            output.line((f"{record.checkpoint.name}  ", "bold"), "; ".join(found) or "every byte as committed")
    damaged = [record for record in records if problems[record.name.generation]]
    if damaged or unread:
        gone = ", and removed" if drop else ""
        if drop:
            forget(there, damaged, unread)
        bad, all_there = len(damaged) + len(unread), count(len(records) + len(unread), "checkpoint")
        raise CheckpointCorrupt(
            f"{bad} of {all_there} damaged in the mirror{gone}",
            hint="keepstep mirror sync sends them anew."
            if drop
            else "With --drop they go, and the next sync sends them anew.",
        )


@command(
    "prune",
    of="mirror",
    examples=[
        ("keepstep mirror prune s3://bucket/team/sft --keep best:3,latest:1", "shown first, then asked"),
        ("keepstep mirror prune s3://bucket/team/sft --keep latest:1 --dry-run", "only shown"),
    ],
)
@_url
@click.option("--keep", metavar="SPEC", help="Rules, such as best:3,latest:1; those of the newest manifest by default.")
@click.option("--dry-run", is_flag=True, help="Show it, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@format_option
def prune(*, url: Mirror, keep: str | None, dry_run: bool, yes: bool, output: Output) -> None:
    """For a mirror whose run is not here; a sync tidies by itself. The newest that can be resumed from stays under any
    policy, and so does what was pinned when the run was mirrored last.
    """
    url.run_id()
    records = url.records()
    own = policy_said([record.checkpoint for record in reversed(records)]) if records else Policy.from_spec("all")
    notes = read_notes(url)
    policy = own if keep is None else Policy.from_spec(keep, own.metric)
    later = MirrorRun(url).evaluated_later(policy.metric)
    plan = plan_mirror(
        None, url, records, policy, late=notes.late, pinned=notes.pins.held, evaluated_later=later
    )  # fmt: skip
    does = bool(plan.drop or plan.thin) and not dry_run
    if not does or not output.is_json:
        _show(plan, url, output)
    if does and (yes or output.agrees("Remove that?", nothing="nothing was removed", way="remove")):
        _report(prune_there(url, plan), url, output)


def _show(plan: MirrorPlan, url: Mirror, output: Output) -> None:
    if output.is_json:
        output.json({
            "url": url.url, "applied": False, "push_bytes": plan.push_bytes,
            "push": [{"step": d.checkpoint.step, "generation": d.checkpoint.generation} for d in plan.push],
            "drop": [row(record) for record in (*plan.drop, *plan.left_behind)],
            "thin": [row(record) for record in plan.thin],
        })  # fmt: skip
        return
    steps = ", ".join(str(decision.checkpoint.step) for decision in plan.push)
    if plan.push:
        output.line((f"Would send {format_size(plan.push_bytes)} to {url.url}: ", "bold"), f"steps {steps}.")
    elif not (plan.drop or plan.thin or plan.left_behind):
        output.line(f"Nothing to do at {url.url}.")
    if gone := (*plan.drop, *plan.left_behind):
        output.line(f"Would remove there: steps {', '.join(str(r.checkpoint.step) for r in gone)}.")
    if plan.thin:
        output.line(f"Would leave weights alone of: steps {', '.join(str(r.checkpoint.step) for r in plan.thin)}.")


def _report(done: Synced, url: Mirror, output: Output) -> None:
    if output.is_json:
        output.json({"url": url.url, "applied": True, **done.to_json()})
        return
    size = format_size(sum(record.checkpoint.size_bytes for record in done.sent))
    steps = ", ".join(str(record.checkpoint.step) for record in done.sent)
    if done.sent:
        output.line((f"Sent {size} to {url.url}: steps {steps}.", "green"))
    elif not (done.dropped or done.thinned or done.failed):
        output.line((f"{url.url} lacks nothing.", "green"))
    if done.dropped:
        output.line(f"Removed there: steps {', '.join(str(r.checkpoint.step) for r in done.dropped)}.")
    if done.thinned:
        output.line(f"Left weights alone of: steps {', '.join(str(r.checkpoint.step) for r in done.thinned)}.")
    if done.swept_bytes:
        output.line(f"Cleared {format_size(done.swept_bytes)} of writers that were killed.")
    if not done.exclusive:
        output.note(f"{url.url} can't keep two writers apart: let one process at a time mirror this run")
    for checkpoint, why in done.failed:
        output.note(f"{checkpoint.name}: {why}")


def _table(records: tuple[Record, ...]) -> Table:
    names = sorted({name for record in records for name in record.checkpoint.metrics})[:4]
    columns = (
        Column("Step", "right", essential=True), Column("Gen", "right"), Column("Kind"), Column("Size", "right"),
        *(Column(name, "right") for name in names),
    )  # fmt: skip
    rows = (
        (
            str(c.step), str(c.generation), c.kind.value, format_size(c.size_bytes),
            *(format_number(c.metrics[name]) if name in c.metrics else "" for name in names),
        )
        for c in (record.checkpoint for record in records)
    )  # fmt: skip
    return Table(columns, tuple(tuple(map(Cell.of, row)) for row in rows))


for _part in (sync_, status, ls, pull, verify, prune, policy):
    mirror.add_command(_part)
