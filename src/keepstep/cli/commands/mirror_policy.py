"""`keepstep mirror policy`: the rules that a mirror's bucket needs."""

from __future__ import annotations

import json
from typing import Any

import click

from keepstep.cli.command import Argument, command, format_option
from keepstep.cli.drawing.render import Output
from keepstep.mirror import BucketState, bucket_state
from keepstep.operations.mirroring.policy import DAYS, FILE, BucketPolicy, bucket_policy


@command(
    "policy",
    of="mirror",
    examples=[
        ("keepstep mirror policy s3://bucket/team/sft", "the rules, and the commands that set them"),
        ("keepstep mirror policy s3://bucket/team/sft --format json | jq .file > keepstep-lifecycle.json", "the file"),
        ("keepstep mirror policy s3://bucket/team/sft --ask", "also whether it keeps versions, or locks"),
    ],
)
@click.argument(
    "url", cls=Argument, metavar="URL", explanation="s3://bucket/path, gs://bucket/path, az://container/path"
)
@click.option(
    "--days", type=click.IntRange(1, 365), default=DAYS, show_default=True, help="So long what is removed stays."
)
@click.option("--ask", is_flag=True, help="Ask a bucket of S3 what it does now (through boto3). Nothing is changed.")
@format_option
def policy(*, url: str, days: int, ask: bool, output: Output) -> None:
    """What keepstep removes, a bucket with versions or soft delete keeps and bills, and parts of a killed upload are in
    no list: a rule of the bucket ends both. It is yours to set; this prints the file, and the commands.
    """
    found = bucket_policy(url, days)
    state = bucket_state(url) if ask else None
    if output.is_json:
        output.json({**found.to_json(), "state": None if state is None else _to_json(state)})
        return
    if found.file is not None:
        output.line((f"{FILE}:", "bold"))
        for line in json.dumps(found.file, indent=1).splitlines():
            output.line(line)
        output.line()
    for line in found.commands:
        output.line(line)
    _notes(found, state, output)


def _notes(found: BucketPolicy, state: BucketState | None, output: Output) -> None:
    for note in found.notes:
        output.note(note)
    if state is None:
        return
    output.note(f"it {'keeps' if state.versioned else 'does not keep'} versions")
    if state.locked:
        output.note("it locks objects: what is removed stays until its time, and is billed")
    output.note(f"rules in force: {', '.join(state.rules)}" if state.rules else "no rule is in force")


def _to_json(state: BucketState) -> dict[str, Any]:
    return {"versioned": state.versioned, "locked": state.locked, "rules": list(state.rules)}
