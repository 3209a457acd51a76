"""`keepstep show`: one checkpoint in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from keepstep.cli.command import command, format_option, reference_argument, run_argument
from keepstep.cli.commands.ls import marks, standing, why
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Span, Table
from keepstep.cli.drawing.text import clean, count, in_words, shorten
from keepstep.model import Checkpoint, Kind, State
from keepstep.operations.seeing.growth import offshoots_of
from keepstep.operations.seeing.receipts import told
from keepstep.operations.seeing.showing import Details
from keepstep.operations.seeing.showing import show as find_details
from keepstep.repository import missing_files
from keepstep.run import BRANCHED, Run, way_back
from keepstep.stock import writer_of
from keepstep.units import format_age, format_moment, format_number, format_size

LONGEST_VALUE = 400
_KINDS = {
    Kind.FULL: "full: everything that a resume needs",
    Kind.WEIGHTS: "weights only: nothing to resume from",
}
Facts = Iterator[tuple[str, Span]]


@command(
    "show",
    examples=[
        ("keepstep show runs/sft best", "the best checkpoint by the run's metric"),
        ("keepstep show runs/sft 300", "the checkpoint of step 300"),
        ("keepstep show s3://bucket/team/sft best", "the same of a mirror"),
        ("keepstep show runs/sft gen:7", "of generation 7, also where a rewind has set it aside"),
        ("keepstep show runs/sft latest --format json | jq .files", "files with size and digest"),
    ],
)
@run_argument
@reference_argument()
@format_option
def show(run: Run, reference: str, output: Output) -> None:
    """Reads the manifest, not the files: keepstep verify does that.

    \b
    The receipt of the last resume from it says how exact that was, and what this is known from:
      proved    an interrupted attempt had logged values beyond it, and they came out again, bit for bit
      compared  what was in memory after loading equals what was saved
      inferred  from the files' bytes and the settings alone
    """
    details = find_details(run, reference)
    checkpoint = details.row.checkpoint
    branches = offshoots_of(run.whose(checkpoint), checkpoint.generation)
    if output.is_json:
        output.json({**details.to_json(), "branches": [one.to_json() for one in branches]})
        return
    output.line((checkpoint.name, "bold"), f" of {run.address}")
    _facts(output, "", _identity(run, details))
    _facts(output, "Metrics", _metrics(details))
    _list(output, "Receipt of the last resume from it", told(details.receipt))
    _list(output, "Branched off it", [str(one) for one in branches])
    _list(output, "How sure", [sure] if (sure := details.sure()) else [])
    _list(output, "Kept because" if details.row.keep else "Not kept", why(details.row))
    _list(output, "What would remove it", _removal(details))
    _facts(output, "Written by ranks", _ranks(details))
    _files(output, checkpoint)
    _facts(output, "Written by", _plain_values(checkpoint.written_by))
    _facts(output, "Fingerprint", _sections(checkpoint.fingerprint))


def _identity(run: Run, details: Details) -> Facts:
    row, checkpoint = details.row, details.row.checkpoint
    epoch = "" if checkpoint.epoch is None else f" (epoch {checkpoint.epoch:.2f})"
    parent = "the first" if checkpoint.parent is None else f"continues generation {checkpoint.parent}"
    yield "step", f"{checkpoint.step}{epoch}"
    yield "state", (standing(row, datetime.now(UTC)), "" if row.state == checkpoint.state.value else "bold red")
    found = marks(row)
    if found:
        yield "marks", ", ".join(span if isinstance(span, str) else span[0] for span in found)
    gone = missing_files(checkpoint.lost) if checkpoint.lost else ""
    yield "kind", (f"weights only: {gone}", "yellow") if gone else _KINDS[checkpoint.kind]
    yield "generation", f"{checkpoint.generation} of timeline {checkpoint.timeline}, {parent}"
    if run.file.branched and BRANCHED in checkpoint.written_by:
        yield "branched", f"from {run.file.branched}"
    yield "created", f"{format_moment(checkpoint.created)} ({format_age(checkpoint.created, datetime.now(UTC))} ago)"
    yield "size", f"{format_size(checkpoint.size_bytes)} in {count(len(checkpoint.files), 'file')}"
    yield "path", row.place or str(checkpoint.path)
    if details.mirror is not None:
        yield "mirror", details.mirror.place_of(checkpoint)
    if checkpoint.state is not State.COMMITTED:
        reference = way_back(checkpoint)
        yield "way back", f"keepstep restore {run.path} {reference.partition('/')[0]}"


def _metrics(details: Details) -> Facts:
    metric, metrics = details.metric, details.row.checkpoint.metrics
    ranking = metric.name if metric and metric.name in metrics else None
    for name in sorted(metrics, key=lambda name: (name != ranking, name)):
        place = f"rank {details.place} of {details.ranked}" if details.place else "not ranked"
        text = format_number(metrics[name])
        yield name, (f"{text}  {place}", "green") if name == ranking else text


def _ranks(details: Details) -> Facts:
    names: dict[int, int] = {}
    for entry in details.row.checkpoint.files:
        rank = writer_of(entry.path) or 0
        names[rank] = names.get(rank, 0) + (not entry.by)
    for rank, size in details.ranks.items():
        yield f"rank {rank}", f"{format_size(size)} in {count(names[rank], 'file')}"


def _removal(details: Details) -> list[str]:
    if not details.row.keep:
        return ["the next prune, or the next save of a training"]
    if not details.managed:
        return ["the training that writes it, by its own save_total_limit"]
    return [text if i == 0 else f"and {text}" for i, text in enumerate(details.removed_by)]


def _plain_values(values: Mapping[str, Any]) -> Facts:
    for name, value in sorted(values.items()):
        yield name, shorten(in_words(value), LONGEST_VALUE)


def _sections(fingerprint: Mapping[str, Any]) -> Facts:
    for name, section in sorted(fingerprint.items()):
        if isinstance(section, dict):
            values = cast("dict[str, Any]", section)
            given = {key: values[key] for key in sorted(values) if values[key] is not None}
            yield name, shorten(in_words(given), LONGEST_VALUE)
        else:
            yield name, shorten(in_words(section), LONGEST_VALUE)


def _files(output: Output, checkpoint: Checkpoint) -> None:
    if not checkpoint.files:
        return
    columns = (
        Column("File", folds=True, essential=True),
        Column("Size", "right"),
        Column("By"),
        Column("Digest", folds=True, minimum=41),
    )
    rows = (
        (Cell.of(f.path), Cell.of(format_size(f.size)), Cell.of(f.by, "yellow"), Cell.of(f.digest, "dim"))
        for f in checkpoint.files
    )
    output.line()
    output.table(Table(columns, tuple(rows)).informative())


def _facts(output: Output, title: str, facts: Facts) -> None:
    found = list(facts)
    if not found:
        return
    output.line()
    if title:
        output.line((title, "bold"))
    width = min(max(len(clean(name)) for name, _ in found), 32)
    for name, span in found:
        output.entry([(f"  {clean(name):<{width}}  ", "dim")], [span])


def _list(output: Output, title: str, items: list[str] | tuple[Span, ...]) -> None:
    if not items:
        return
    output.line()
    output.line((title, "bold"))
    for item in items:
        output.entry(["  "], [item])
