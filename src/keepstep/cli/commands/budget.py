"""`keepstep budget`: set, show and clear the budget of all runs below a directory."""

from __future__ import annotations

from pathlib import Path

import click

from keepstep.cli.command import Argument, command, format_option, group
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count
from keepstep.operations.seeing.finding import NoDirectory
from keepstep.operations.tree import TreeReport, clear_budget, must_have_budget, new_budget, report, set_budget
from keepstep.paths import expanded
from keepstep.units import SIZES, format_size, parse_size


@group(
    "budget",
    examples=[
        ("keepstep budget set runs 2TB --reserve 100GB", "all runs below runs/ together, and room for the next saves"),
        ("keepstep budget show runs", "what each run takes, may take, and would give up"),
        ("keepstep prune --root runs", "give up what is over: plans first, then one question"),
        ("keepstep budget clear runs", "no budget any more; nothing is removed"),
    ],
)
def budget() -> None:
    """Counted are the bytes of every RUN below the directory: checkpoints, managed or not, what lies aside, saves in
    flight and records. The rules are fixed. No run gives up its newest checkpoint that can be resumed from, its best,
    what is pinned, and what is being read, resumed from or uploaded. Beyond that, runs at rest give up before those
    that train, of each the one that saved last longest ago before the others, each by its own policy.

    \b
    keepstep prune --root DIR    gives up what is over the budget, less its reserve, in that order
    a managed training           asks for room before each save, the reserve included: first of runs at rest
                                 that were trained with attach(trainer, shared=True), under their locks, then of
                                 its own; where that is not enough, shared ones that train are asked, and give at
                                 their next save. Without room the save is refused, as on_disk_full says.

    A training that is not shared gives nothing to others. The nearest budget at or above an output_dir counts. It is
    refused where locks don't hold, as on NFS.
    """


def _root(context: click.Context, param: click.Parameter, value: str) -> Path:
    return expanded(Path(value))


_root_argument = click.argument(
    "root", cls=Argument, metavar="DIR", explanation="directory that the runs lie below", callback=_root
)


@command(
    "set",
    of="budget",
    examples=[
        ("keepstep budget set runs 2TB", "no more than 2 TB for all runs below runs/"),
        ("keepstep budget set runs 2TB --reserve 100GB", "of these a prune leaves 100 GB free for the next saves"),
        ("keepstep budget set runs 500GB --dry-run", "who would have to give up what, if it were so"),
    ],
)
@_root_argument
@click.argument("size", cls=Argument, metavar="SIZE", explanation=f"2TB, 500GB; units {', '.join(SIZES)}")
@click.option("--reserve", metavar="SIZE", help="What of it a prune leaves free, for the next saves of trainings.")
@click.option("--dry-run", is_flag=True, help="Show what it would mean, and set nothing.")
@format_option
def set_(root: Path, size: str, reserve: str | None, dry_run: bool, output: Output) -> None:
    """Nothing is removed: trainings keep to it from their next save on, and keepstep prune --root gives up what is
    over. A budget that is there is replaced.
    """
    limit, rest = parse_size(size, "SIZE"), 0 if reserve is None else parse_size(reserve, "--reserve")
    if dry_run:
        if not root.is_dir():
            raise NoDirectory(f"{root} is no directory", hint="Give the directory that the runs lie below.")
        new = new_budget(limit, rest)
        output.note("dry run: nothing is set")
    else:
        new = set_budget(root, limit, rest)
    found = report(root, new)
    if output.is_json:
        output.json({**found.to_json(), "applied": not dry_run}, rows="runs")
        return
    _print(found, output)


@command("show", of="budget", examples=[("keepstep budget show runs", "the table, in the order of giving up")])
@_root_argument
@format_option
def show(root: Path, output: Output) -> None:
    """Runs stand in the order in which they would give up. *Never* is what a run gives up under no budget, *May take*
    what is left to it: of one at rest, once a prune has given up what is over; of one that trains, the budget less what
    others keep, those that share no more than what they never give up.
    """
    found = report(root)
    if output.is_json:
        output.json(found.to_json(), rows="runs")
        return
    _print(found, output)


@command("clear", of="budget", examples=[("keepstep budget clear runs", "each run by its own budget alone")])
@_root_argument
@click.option("--dry-run", is_flag=True, help="Show the budget, and clear nothing.")
@format_option
def clear(root: Path, dry_run: bool, output: Output) -> None:
    """No checkpoint is touched; trainings notice at their next save."""
    found = must_have_budget(root) if dry_run else clear_budget(root)
    if output.is_json:
        output.json({"root": str(root), "budget_bytes": found.budget, "applied": not dry_run})
    elif dry_run:
        output.line(f"Would clear the budget of {format_size(found.budget)} of {root}.")
    else:
        output.line(f"Cleared the budget of {format_size(found.budget)} of {root}.")


budget.add_command(set_)
budget.add_command(show)
budget.add_command(clear)


def _print(found: TreeReport, output: Output) -> None:
    reserve = f", {format_size(found.budget.reserve)} in reserve" if found.budget.reserve else ""
    output.line((str(found.root), "bold"), f" has a budget of {format_size(found.budget.budget)}{reserve}")
    output.line()
    if found.shares:
        output.table(_table(found))
        output.line()
    leaving = f"; {format_size(found.leaving_bytes)} are being deleted" if found.leaving_bytes else ""
    number = len(found.shares)
    runs, takes = count(number, "run"), "takes" if number == 1 else "take"
    output.line((f"{runs} {takes} {format_size(found.taken_bytes)}{leaving}.", "bold"))
    if not found.over_bytes:
        free = found.budget.budget - found.taken_bytes
        output.line(f"{format_size(free)} of the budget are free.")
        return
    less = " less its reserve" if found.budget.reserve else ""
    output.line(f"{format_size(found.over_bytes)} are over the budget{less}: keepstep prune --root {found.root}")
    if found.stays_over_bytes:
        output.line(f"Of these {format_size(found.stays_over_bytes)} can't be given up by anybody.")


def _table(found: TreeReport) -> Table:
    columns = (
        Column("Run", folds=True, essential=True),
        Column("State", essential=True),
        Column("Shared"),
        Column("Takes", "right", essential=True),
        Column("Never", "right"),
        Column("May take", "right", essential=True),
        Column("Gives", "right"),
    )
    rows = (
        (
            Cell.of(str(share.member.path)),
            Cell.of(found.state_of(share.member)),
            Cell.of("yes" if share.member.shared else ""),
            Cell.of(format_size(share.member.takes)),
            Cell.of(format_size(share.member.least)),
            Cell.of(format_size(share.may_take), "bold"),
            Cell.of(format_size(share.gives) if share.gives else "", "bold red"),
        )
        for share in found.shares
    )
    return Table(columns, tuple(rows)).informative()
