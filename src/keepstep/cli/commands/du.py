"""`keepstep du`: where the bytes are, and what would free them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from keepstep.cli.command import Argument, command, format_option, opened
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count
from keepstep.cli.many import places_of, root_option
from keepstep.mirror import is_address, is_mirror
from keepstep.operations.remembering import Memory
from keepstep.operations.seeing.finding import no_run_below
from keepstep.operations.usage import Kinds, Litter, Share, TreeUsage, Usage, usage_of_tree
from keepstep.paths import expanded
from keepstep.retention import Outcome
from keepstep.units import format_size

if TYPE_CHECKING:
    from keepstep.mirror import MirrorRun

T = TypeVar("T")
Sort = Literal["name", "size", "frees"]
BAR = 24
"""Characters of the longest bar."""
FLAT = ("run", "step", "generation", "kind", "size_bytes", "weights_bytes", "optimizer_bytes", "other_bytes", "path")
"""Columns of the format agent."""


@command(
    "du",
    examples=[
        ("keepstep du runs/sft", "one run, checkpoint by checkpoint"),
        ("keepstep du runs --sort size", "all runs below a directory, the largest first; --root runs is the same"),
        ("keepstep du runs/sft --check", "by a walk over the disk, not by what the manifests say"),
        ("keepstep du s3://bucket/team/sft", "a mirror: checkpoints, and what killed writers left"),
        ("keepstep du runs --format json | jq '.runs[] | [.path, .frees.prune_bytes]'", "what a prune of each frees"),
    ],
)
@click.argument(
    "paths",
    cls=Argument,
    metavar="RUN ...",
    nargs=-1,
    type=click.Path(),
    explanation="runs, or directories that runs lie below, or patterns of their names; or a mirror, s3://bucket/path",
)
@root_option
@click.option(
    "--sort",
    type=click.Choice(["name", "size", "frees"]),
    default="name",
    show_default=True,
    help="name: runs by path, checkpoints by step; size: the largest first; frees: what a prune would free most of.",
)
@click.option("--check", is_flag=True, help="Walk over every file, and count what the file system has allocated.")
@format_option
def du(*, paths: tuple[str, ...], roots: tuple[str, ...], sort: Sort, check: bool, output: Output) -> None:
    """Weights can be loaded; optimizer is all that only a resume needs, which a thin frees; other is small files and
    the run's records; litter is what lies below .keepstep and is no checkpoint of the run now. Checkpoints of the
    Trainer alone are counted, as not managed, and so are those of Lightning and Accelerate, each with its writer. What
    was measured is kept in the user's cache directory for as long as the directories do not change (KEEPSTEP_NO_CACHE=1
    keeps nothing, --check measures anew). Sizes are those of files: what du -b says, without the directories
    themselves.
    """
    mirror = _mirror(paths, roots)
    places = [] if mirror else places_of(paths, roots)
    if mirror:
        from keepstep.operations.mirroring.usage import usage_of_mirror

        tree = usage_of_mirror(mirror)
    else:
        tree = usage_of_tree(places, check=check, memory=Memory.of_user())
    if not tree.runs and not tree.stock:
        _print_notes(tree, output)
        raise no_run_below(places)
    if output.is_agent:
        output.json(list(_flat_rows(tree, sort)), columns=FLAT)
    elif output.is_json:
        output.json(_sorted_json(tree, sort))
    elif (alone := _alone(tree)) is not None:
        _print_run(alone, sort, output)
    else:
        _print_tree(tree, sort, output)
    _print_notes(tree, output)


def _mirror(paths: Sequence[str], roots: Sequence[str]) -> MirrorRun | None:
    """The mirror that was named, by its address or as a directory."""
    named = next((path for path in paths if is_address(path) or is_mirror(expanded(path))), None)
    if named is None:
        return None
    if len(paths) > 1 or roots:
        raise click.UsageError(f"{named} is a mirror: name it alone.")
    from keepstep.mirror import MirrorRun

    run = opened(named)
    return run if isinstance(run, MirrorRun) else None


def _alone(tree: TreeUsage) -> Usage | None:
    """The run that was asked for, where it is all that there is."""
    if len(tree.runs) == 1 and not tree.stock and tree.runs[0].path in tree.roots:
        return tree.runs[0]
    return tree.stock[0].detail if len(tree.stock) == 1 and not tree.runs else None


def _sorted_json(tree: TreeUsage, sort: Sort) -> dict[str, Any]:
    runs = [
        {**run.to_json(), "by_checkpoint": [share.to_json() for share in _ordered_shares(run, sort)]}
        for run in _in_order(tree.runs, sort, _size_of_run, _freed_of_run)
    ]
    return {**tree.to_json(), "runs": runs}


def _flat_rows(tree: TreeUsage, sort: Sort) -> Iterator[dict[str, Any]]:
    """A row for each checkpoint and its run, then one for what else lies in the run."""
    for found in tree.stock:
        for other in found.others:
            named = {"run": str(found.path), "step": other.step, "kind": other.writer, "size_bytes": other.size_bytes}
            yield {**dict.fromkeys(FLAT), **named, "path": str(found.path / other.name)}
    details = [found.detail for found in tree.stock if found.detail is not None]
    for run in _in_order([*tree.runs, *details], sort, _size_of_run, _freed_of_run):
        for share in _ordered_shares(run, sort):
            found = {"run": run.called, **share.to_json()}
            yield {name: found[name] for name in FLAT}
        kinds = run.to_json()["kinds"]
        for name in ("litter", "unmanaged"):
            yield {**dict.fromkeys(FLAT), "run": run.called, "kind": name, "size_bytes": kinds[name]}


def _print_run(usage: Usage, sort: Sort, output: Output) -> None:
    if output.is_rich:
        checkpoints = f"{format_size(usage.checkpoints_bytes)} in {count(len(usage.shares), 'checkpoint')}"
        disk = usage.disk
        free = (
            f"; {format_size(disk.free_bytes)} free of {format_size(disk.total_bytes)} on the disk"
            if not usage.address
            else ""
        )
        output.line((usage.called, "bold"), f" {checkpoints}{free}")
        output.line()
    if usage.shares:
        bars = _Bars.of([share.kinds for share in usage.shares], output)
        output.table(_by_checkpoint(usage, sort, bars))
        _print_legend(bars, output)
    output.table(_by_place(usage))
    if usage.managed:
        output.line()
        output.line((_frees(usage), "bold"))


def _print_legend(bars: _Bars, output: Output) -> None:
    output.line()
    if output.is_rich:
        output.line((bars.legend, "dim"))
        output.line()


def _by_checkpoint(usage: Usage, sort: Sort, bars: _Bars) -> Table:
    columns = (
        Column("Step", "right", essential=True),
        Column("Size", "right", essential=True),
        Column("Allocated", "right"),
        Column("Bytes"),
        Column("Weights", "right"),
        Column("Optimizer", "right"),
        Column("Other", "right"),
        Column("Prune frees", "right"),
        Column("Thin frees", "right"),
    )
    rows = (
        (
            Cell.of(str(share.checkpoint.step), "bold"),
            Cell.of(format_size(share.kinds.total)),
            Cell.of(_size(share.allocated)),
            Cell.of(bars.draw(share.kinds), "cyan"),
            *(Cell.of(_size(size)) for size in (share.kinds.weights, share.kinds.optimizer, share.kinds.other)),
            Cell.of(_size(share.prune_bytes), _STYLES[share.outcome]),
            Cell.of(_size(share.thin_bytes)),
        )
        for share in _ordered_shares(usage, sort)
    )
    return Table(columns, tuple(rows)).informative()


def _by_place(usage: Usage) -> Table:
    """What there is beside the checkpoints, and the sum of everything."""
    committed, records = "committed", "keepstep's own, and what else lies in the directory"
    if not usage.managed:
        committed, records = "not managed", "what else lies in the directory"
    lines: list[tuple[str, int, str]] = [("checkpoints", usage.checkpoints_bytes, committed)]
    lines += [(room.name, room.size_bytes, _contents(room, usage)) for room in usage.litter]
    lines += [("not managed", found.size_bytes, f"{found.path.name}: {found.reason}") for found in usage.unmanaged]
    lines += [("records" if usage.managed else "rest", usage.records_bytes, records)]
    lines += [("all", usage.kinds.total, usage.called)]
    columns = (Column("Where", essential=True), Column("Size", "right", essential=True), Column("What", folds=True))
    return Table(columns, tuple((Cell.of(where), Cell.of(format_size(size)), Cell.of(w)) for where, size, w in lines))


def _contents(room: Litter, usage: Usage) -> str:
    """What lies in a room, and the command that frees it."""
    if not room.checkpoints:
        return room.what
    way = f"; keepstep prune {shlex.quote(str(usage.path))} {room.option}" if room.option else ""
    return f"{room.what}: {count(room.checkpoints, 'checkpoint')}{way}"


def _frees(usage: Usage) -> str:
    parts = [f"A prune frees {format_size(usage.prune_bytes)}" if usage.prune_bytes else "A prune frees nothing"]
    if usage.thin_bytes:
        thinnable = sum(share.thin_bytes > 0 for share in usage.shares)
        parts.append(
            f"thinning all of {count(thinnable, 'checkpoint')} that may be frees {format_size(usage.thin_bytes)}"
        )
    text = "; ".join(parts) + "."
    if usage.limits.budget is not None:
        text += f" Budget {format_size(usage.limits.budget)}, {format_size(usage.budget_used)} used."
    return text


def _print_tree(tree: TreeUsage, sort: Sort, output: Output) -> None:
    kinds = [run.kinds for run in tree.runs] + [Kinds(unmanaged=found.size_bytes) for found in tree.stock]
    if kinds:
        bars = _Bars.of(kinds, output)
        output.table(_by_run(tree, sort, bars))
        _print_legend(bars, output)
    if any(found.others for found in tree.stock):
        output.table(_by_other(tree, sort))
        output.line()
    if tree.elsewhere_bytes:
        output.line(f"{format_size(tree.elsewhere_bytes)} belong to no run.")
    total = f"{format_size(tree.kinds.total)} in {count(len(tree.runs), 'run')}"
    if tree.stock:
        what = "directory" if len(tree.stock) == 1 else "directories"
        total += f" and {len(tree.stock)} {what} that keepstep does not manage"
    frees = sum(run.prune_bytes for run in tree.runs)
    output.line((f"{total}; pruning all runs frees {format_size(frees) if frees else 'nothing'}.", "bold"))


def _by_run(tree: TreeUsage, sort: Sort, bars: _Bars) -> Table:
    columns = (
        Column("Run", essential=True, folds=True, minimum=16),
        Column("Size", "right", essential=True),
        Column("Allocated", "right"),
        Column("Bytes"),
        Column("Checkpoints", "right"),
        Column("Weights", "right"),
        Column("Optimizer", "right"),
        Column("Other", "right"),
        Column("Litter", "right"),
        Column("Not managed", "right"),
        Column("Prune frees", "right"),
        Column("Thin frees", "right"),
    )
    rows: list[tuple[Cell, ...]] = []
    for run in _in_order(tree.runs, sort, _size_of_run, _freed_of_run):
        kinds = run.kinds
        sizes = (kinds.weights, kinds.optimizer, kinds.other, kinds.litter, kinds.unmanaged)
        rows.append(
            (
                Cell.of(str(run.path), "bold"),
                Cell.of(format_size(kinds.total)),
                Cell.of(_size(run.allocated)),
                Cell.of(bars.draw(kinds), "cyan"),
                Cell.of(str(len(run.shares))),
                *(Cell.of(_size(size)) for size in (*sizes, run.prune_bytes, run.thin_bytes)),
            )
        )
    for found in sorted(tree.stock, key=lambda found: -found.size_bytes) if sort != "name" else tree.stock:
        kinds = Kinds(unmanaged=found.size_bytes)
        rows.append(
            (
                Cell.of(str(found.path)),
                Cell.of(format_size(found.size_bytes)),
                Cell.of(_size(found.allocated) if tree.checked else ""),
                Cell.of(bars.draw(kinds), "cyan"),
                Cell.of(str(found.checkpoints)),
                *(Cell.of("") for _ in range(4)),
                Cell.of(_size(found.size_bytes)),
                *(Cell.of("") for _ in range(2)),
            )
        )
    return Table(columns, tuple(rows)).informative()


def _by_other(tree: TreeUsage, sort: Sort) -> Table:
    """Checkpoint by checkpoint what other writers left."""
    columns = (
        Column("Checkpoint", essential=True, folds=True, minimum=16),
        Column("Writer", folds=True),
        Column("Step", "right"),
        Column("Size", "right", essential=True),
        Column("Allocated", "right"),
    )
    found = [(stock.path / other.name, other) for stock in tree.stock for other in stock.others]
    if sort == "size":
        found.sort(key=lambda pair: -pair[1].size_bytes)
    rows = (
        (
            Cell.of(str(path), "bold"),
            Cell.of(other.writer),
            Cell.of("" if other.step is None else str(other.step)),
            Cell.of(format_size(other.size_bytes)),
            Cell.of(_size(other.allocated) if tree.checked else ""),
        )
        for path, other in found
    )
    return Table(columns, tuple(rows)).informative()


def _print_notes(tree: TreeUsage, output: Output) -> None:
    for found in tree.stock:
        output.note(f"note: {found.path} is not managed: {found.reason}")
    for run in tree.runs:
        for share in run.shares:
            if share.differs:
                listed, there = format_size(share.manifest_bytes), format_size(share.found_bytes or 0)
                where = f"keepstep verify {run.called} {share.checkpoint.step}"
                output.note(
                    f"note: {share.checkpoint.path or share.checkpoint.name} lists {listed}, and {there} are there: "
                    f"{where}"
                )
    for item in tree.unreadable:
        output.note(f"note: {item.path} could not be read, and is not counted: {item.reason}")


class _Bars:
    """Bars to one scale, a part of each for every kind; none where there is no terminal to look at."""

    def __init__(self, largest: int, parts: str, shown: bool) -> None:
        self._largest = largest
        self._parts = parts
        self._shown = shown

    @classmethod
    def of(cls, kinds: Sequence[Kinds], output: Output) -> _Bars:
        parts = "█▓░▒·" if output.draws_blocks else "#=-~."
        return cls(max((each.total for each in kinds), default=0), parts, output.is_rich)

    @property
    def legend(self) -> str:
        """Which part of a bar is which kind."""
        names = ("weights", "optimizer", "other", "litter", "not managed")
        return "   ".join(f"{part} {name}" for part, name in zip(self._parts, names, strict=True))

    def draw(self, kinds: Kinds) -> str:
        """Parts in the order of the kinds; every kind of a share of the whole bar, rounded together."""
        if not self._shown or not self._largest:
            return ""
        text, reached = "", 0
        for part, size in zip(self._parts, kinds.to_json().values(), strict=True):
            reached += size
            text += part * (round(reached * BAR / self._largest) - len(text))
        return text


def _ordered_shares(usage: Usage, sort: Sort) -> list[Share]:
    return _in_order(usage.shares, sort, _size_of_share, _freed_of_share)


def _in_order(items: Sequence[T], sort: Sort, size: Callable[[T], int], freed: Callable[[T], int]) -> list[T]:
    if sort == "name":
        return list(items)
    return sorted(items, key=size if sort == "size" else freed, reverse=True)


def _size_of_run(usage: Usage) -> int:
    return usage.kinds.total


def _freed_of_run(usage: Usage) -> int:
    return usage.prune_bytes


def _size_of_share(share: Share) -> int:
    return share.kinds.total


def _freed_of_share(share: Share) -> int:
    return share.prune_bytes


def _size(size: int | None) -> str:
    return format_size(size) if size else ""


_STYLES = {Outcome.KEEP: "", Outcome.THIN: "yellow", Outcome.REMOVE: "red"}
