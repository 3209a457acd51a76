"""`keepstep diff`: what differs between two checkpoints."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from keepstep.cli.command import REFERENCES, Argument, command, complete_reference, format_option
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count, in_words, shorten
from keepstep.operations.comparing.comparison import Arithmetic, Comparison, Outcome, compare, plan_comparison
from keepstep.operations.comparing.sides import Side, both_sides, held
from keepstep.operations.comparing.tensors import TensorChange
from keepstep.operations.seeing.differences import Change
from keepstep.units import format_number, format_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SHOWN = 20
"""Tensors that a table shows where nothing says how many."""
LONGEST_VALUE = 60
COLUMNS = (
    "name", "relative_change", "unchanged", "largest_change", "norm_before", "norm_of_change", "non_finite", "dtype",
    "shape", "why_not_compared",
)  # fmt: skip


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """References of the run that was typed, and directories."""
    from click.shell_completion import CompletionItem

    return [*complete_reference(ctx, param, incomplete), CompletionItem(incomplete, type="dir")]


@command(
    "diff",
    examples=[
        ("keepstep diff runs/sft 100 best", "two checkpoints of one run"),
        ("keepstep diff runs/sft best runs/lower-lr best", "of two runs: what was set, and where the weights went"),
        ("keepstep diff stock/checkpoint-500 runs/sft/checkpoint-500", "two directories, managed or not"),
        ("keepstep diff base-model runs/sft latest", "how far a training is from where it began"),
        ("keepstep diff runs/sft 100 200 --optimizer --limit 50", "with the optimizer's moments, the fifty largest"),
        ("keepstep diff runs/sft 100 200 --format json | jq '.differences'", "for programs"),
    ],
)  # fmt: skip
@click.argument(
    "sides", cls=Argument, metavar="[RUN] A [RUN] B", nargs=-1, required=True, shell_complete=_complete,
    explanation=f"two of a run, one of each of two runs, or two paths. In a run: {REFERENCES}",
)  # fmt: skip
@click.option("--optimizer", is_flag=True, help="Compare what the optimizer remembers as well.")
@click.option("--values/--no-values", default=True,
              help="Read every tensor (default), or compare names, dtypes and shapes alone.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N",
              help=f"No more than N tensors, the largest change first: {SHOWN} in a table, else all.")  # fmt: skip
@format_option
def diff(sides: tuple[str, ...], optimizer: bool, values: bool, limit: int | None, output: Output) -> None:
    """A tensor's change is the norm of its difference by the norm of what was there; unchanged is the share of elements
    with the same bits. What can't be compared stands first: names of one side alone, other shapes. Files of safetensors
    and of torch.save are read piece by piece and none is unpickled: memory does not grow with the checkpoint.
    Runs and directories that others wrote are read as well: of those there are no data, and no versions.
    """
    before, after = both_sides(sides)
    with held(before, after):
        comparison = plan_comparison(before, after, optimizer=optimizer, values=values)
        outcome = _read(comparison, output)
    for one in comparison.not_read:
        output.note(f"not compared: {one.path}: it {one.why}")
    if output.is_json:
        output.json(outcome.to_json(limit), rows="tensors", columns=COLUMNS)
    else:
        _report(outcome, SHOWN if limit is None else limit, output)


def _read(comparison: Comparison, output: Output) -> Outcome:
    with output.progress("comparing", comparison.nbytes) as progress:
        arithmetic = _arithmetic() if comparison.nbytes else None
        return compare(
            comparison,
            arithmetic,
            on_start=lambda name: progress.describe(shorten(name, 40)),
            on_bytes=progress.advance,
        )


def _arithmetic() -> Arithmetic | None:
    """None without torch."""
    if find_spec("torch") is None or find_spec("safetensors") is None:
        return None
    engine: Any = import_module("keepstep.engine")
    return engine


def _report(outcome: Outcome, limit: int, output: Output) -> None:
    comparison = outcome.comparison
    output.line(("before  ", "dim"), *_name(comparison.before))
    output.line(("after   ", "dim"), *_name(comparison.after))
    output.line()
    if comparison.changes:
        output.table(_facts(comparison.changes))
    else:
        output.line(("No setting, version, file size or metric that both know differs.", "dim"))
    if comparison.unknown:
        output.line((f"Known of one side only, and not compared: {', '.join(comparison.unknown)}.", "dim"))
    output.line()
    output.line((_summary(outcome), "bold"))
    if outcome.tensors:
        output.line()
        output.table(_tensors(outcome.tensors[:limit]))
    if (more := len(outcome.tensors) - limit) > 0:
        output.line((f"and {count(more, 'tensor')} more: --limit {len(outcome.tensors)}", "dim"))


def _name(side: Side) -> tuple[tuple[str, str] | str, ...]:
    one = side.checkpoint
    step = f"step {one.step}, " if one.step else ""
    generation = f"generation {one.generation}, " if side.committed else ""
    text = f"  {step}{generation}{format_size(one.size_bytes)}"
    return (str(side.path), "bold"), text, *([("  damaged", "bold red")] if one.damage else [])


def _facts(changes: tuple[Change, ...]) -> Table:
    columns = (
        Column("What differs", folds=True, essential=True),
        Column("Before", folds=True, essential=True, minimum=12),
        Column("After", folds=True, essential=True, minimum=12),
    )
    return Table(columns, tuple(tuple(map(Cell.of, _fact(change))) for change in changes))


def _fact(change: Change) -> tuple[str, str, str]:
    sizes = change.what == "size" or change.what.startswith("file: ")
    before, after = (
        "" if value is None else format_size(value) if sizes else shorten(in_words(value), LONGEST_VALUE)
        for value in (change.before, change.after)
    )
    return change.what, before, after


def _summary(outcome: Outcome) -> str:
    if not outcome.tensors:
        return "No tensor was found on either side."
    everything = count(len(outcome.tensors), "tensor")
    if not outcome.compared:
        return f"{everything}; no values were compared."
    total = outcome.total
    text = f"{outcome.compared:,} of {everything} compared, {outcome.unchanged:,} of them unchanged."
    if total.same:
        return text
    moved = f"The weights moved by {format_number(total.relative)} of their norm"
    return f"{text} {moved}; {_share(total.share_unchanged)} of {total.elements:,} elements are what they were."


def _tensors(tensors: tuple[TensorChange, ...]) -> Table:
    columns = (
        Column("Tensor", folds=True, essential=True),
        Column("Change", "right", essential=True),
        Column("Unchanged", "right", essential=True),
        Column("Largest", "right"),
        Column("Not finite", "right"),
        Column("Dtype", essential=True),
        Column("Shape"),
        Column("Not compared", folds=True, essential=True, minimum=12),
    )
    return Table(columns, tuple(map(_row, tensors))).informative()


def _row(tensor: TensorChange) -> tuple[Cell, ...]:
    pair, sums = tensor.pair, tensor.sums
    dtypes = [place.dtype for place in (pair.before, pair.after) if place is not None]
    shapes = [" x ".join(map(str, place.shape)) or "one" for place in (pair.before, pair.after) if place is not None]
    infinite = sums is not None and (sums.non_finite_before or sums.non_finite_after)
    return (
        Cell.of(pair.name, "dim" if sums is not None and sums.same else ""),
        Cell.of("" if sums is None else "0" if sums.same else format_number(sums.relative)),
        Cell.of("" if sums is None else _share(sums.share_unchanged)),
        Cell.of("" if sums is None or sums.same else format_number(sums.largest)),
        Cell.of(f"{sums.non_finite_before} -> {sums.non_finite_after}" if sums and infinite else "", "bold red"),
        Cell.of(" -> ".join(dict.fromkeys(dtypes)), "yellow" if len(set(dtypes)) > 1 else ""),
        Cell.of(" -> ".join(dict.fromkeys(shapes)), "yellow" if len(set(shapes)) > 1 else ""),
        Cell.of(tensor.why, "yellow"),
    )


def _share(share: float) -> str:
    """In percent; what is nearly all, or nearly none, is not rounded to it."""
    text = f"{100 * share:.1f}%"
    return ">99.9%" if text == "100.0%" and share < 1 else "<0.1%" if text == "0.0%" and share > 0 else text
