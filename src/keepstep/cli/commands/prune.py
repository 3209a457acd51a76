"""`keepstep prune`: show what a policy drops and thins, ask, and do exactly that."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Protocol

import click

from keepstep.cli.command import command, format_option
from keepstep.cli.commands.ls import what_it_does
from keepstep.cli.commands.unmanaged import type_name, unmanaged_option
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count
from keepstep.cli.many import runs_argument
from keepstep.cli.within_tree import tree_limit
from keepstep.errors import PolicyError
from keepstep.model import Checkpoint, State
from keepstep.operations.removing.carrying_out import Pruned
from keepstep.operations.removing.pruning import plan_for, policy_for, prune_as_shown
from keepstep.operations.removing.unmanaged import prune_unmanaged
from keepstep.operations.tree import TreeLimit, ask_by_hand
from keepstep.repository import OnBytes
from keepstep.retention import Decision, Mode, Outcome, Plan, Policy, format_spec, rule_table
from keepstep.run import Run
from keepstep.units import SIZES, align_numbers, format_size, parse_size


def _agree(plans: Sequence[Plan], output: Output) -> bool:
    """The one question, whatever the number of runs."""
    where = f" in {len(plans)} runs" if len(plans) > 1 else ""
    return output.agrees(f"{_todo(*plans)}{where}?", nothing="nothing was removed", way="remove")


_RULES = "\n".join(f"  {example:<12} {meaning}" for example, meaning in rule_table())


@command(
    "prune",
    examples=[
        ("keepstep prune runs/sft --keep best:3,latest:1", "show the plan, then ask"),
        ("keepstep prune runs/sft --keep latest:2 --dry-run", "only show it"),
        ("keepstep prune runs/sft --budget 200GB", "as the run's policy says, and no more than 200 GB of it"),
        ("keepstep prune runs/sft --aside --quarantined", "also what a rewind set aside, and what was found damaged"),
        ("keepstep prune runs/sft --previous", "also the runs that a fresh start in this directory set aside"),
        ("keepstep prune runs/sft --keep best:1 --metric eval_accuracy --mode max --yes", "from a script"),
        ("keepstep prune --root runs", "each run below a directory by its own policy: all plans, then one question"),
        ("keepstep prune --root runs --dry-run", "what goes, and who gives up, within the budget of the tree"),
    ],
)
@runs_argument(agree=_agree)
@click.option(
    "--keep", metavar="SPEC", help="Rules, joined by commas, such as best:3,latest:2; the run's own by default."
)
@click.option(
    "--budget",
    metavar="SIZE",
    help=f"Give up more, in order, to keep no more than that: 200GB; units {', '.join(SIZES)}. By default the budget "
    "that the run was trained with.",
)
@click.option("--aside", is_flag=True, help="Also remove what a rewind set aside.")
@click.option("--quarantined", is_flag=True, help="Also remove what was found damaged and is in quarantine.")
@click.option("--previous", is_flag=True, help="Also remove the runs that a fresh start in this directory set aside.")
@click.option("--metric", metavar="NAME", help="Rank by this metric instead of the run's own.")
@click.option(
    "--mode", type=click.Choice(["min", "max"]), help="Whether a lower or a higher value of --metric is better."
)
@unmanaged_option
@click.option("--dry-run", is_flag=True, help="Show the plan and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@format_option
def prune(
    *,
    run: Run,
    keep: str | None,
    budget: str | None,
    aside: bool,
    quarantined: bool,
    previous: bool,
    metric: str | None,
    mode: Mode | None,
    unmanaged: bool,
    dry_run: bool,
    yes: bool,
    output: Output,
) -> Generator[Plan, bool, None]:
    """The newest checkpoint that can be resumed from, and what is pinned or tagged, stay under any policy. The
    policy of the run does not change. A budget counts what lies aside too, and gives up, in this order: previous runs,
    the oldest first; what a rewind set aside, the oldest first; what is in quarantine; the optimizer states of what is
    kept for its metric alone; the lowest-ranked best; the oldest milestone; the oldest of the latest; never the last
    best. With --root, runs below a directory with a budget (keepstep budget) also give up what is over that, less its
    reserve: those at rest first, of them the one that saved last longest ago, each down to what stays under any
    budget before the next one gives; one that trains is asked, and gives at its next save. Without a terminal to ask
    on, nothing is removed unless --yes is given. Of several runs all plans are shown before anything is asked, and
    one answer is for all.
    """
    if mode is not None and metric is None:
        raise click.UsageError("--mode needs --metric: name the metric that it is the direction of.")
    policy = policy_for(run, keep, metric, mode)
    limit = run.limits.budget if budget is None else parse_size(budget, "--budget")
    chosen = ((State.PREVIOUS, previous), (State.SET_ASIDE, aside), (State.QUARANTINED, quarantined))
    drop = frozenset(state for state, wanted in chosen if wanted)
    tree = tree_limit(
        run, partial(_planned, keep=keep, metric=metric, mode=mode, budget=budget, drop=drop, unmanaged=unmanaged)
    )
    within = tree.bound if tree is not None else None
    plan = plan_for(run, policy, limit, drop=drop, within=within)
    if not output.is_json:
        _print_plan(run, policy, plan, limit, output)
    if limit is not None and _stays(plan) > limit:
        least = f"{format_size(_stays(plan))} stay under any budget: the newest, the best, and what is pinned"
        output.note(f"{format_size(limit)} can't be reached: {least}")
    for checkpoint in (d.checkpoint for d in plan.decisions if d.checkpoint.damage):
        output.note(f"{checkpoint.name} is damaged and takes no place of another: keepstep verify {run.path} says more")
    if run.managed:
        carry_out = partial(prune_as_shown, run, policy, plan, budget=limit, drop=drop, within=within)
    else:
        carry_out = partial(prune_unmanaged, run, policy, plan, budget=limit, within=within)
    does = plan.changes and not dry_run
    if does and not run.managed:
        does = type_name(run, _todo(plan), output) if unmanaged else run.must_be_managed()
    agreed = does and (yes or not run.managed or (yield plan))
    asks = bool(agreed and tree is not None and tree.trains)
    if tree is not None and asks:
        ask_by_hand(tree.root, run.path)
        output.note(f"{run.path} trains: it is asked, and gives up what is over at its next save")
    done = _carry_out(carry_out, output) if agreed and not asks else None
    if output.is_json:
        found = _to_json(policy, plan, limit, done)
        output.json({**found, "tree": _tree_json(tree, asked=asks)}, rows="decisions")


prune.help = f"{prune.help}\n\n\b\nRules:\n{_RULES}"


def _planned(
    run: Run,
    *,
    keep: str | None,
    metric: str | None,
    mode: Mode | None,
    budget: str | None,
    drop: frozenset[State],
    unmanaged: bool,
) -> tuple[Plan, Policy] | None:
    """What becomes of a run before the budget of its tree is looked at; None where it is not touched."""
    if not (run.managed or unmanaged):
        return None
    try:
        policy = policy_for(run, keep, metric, mode)
    except PolicyError:
        return None
    limit = None if budget is None else parse_size(budget, "--budget")
    return plan_for(run, policy, limit, drop=drop), policy


def _tree_json(tree: TreeLimit | None, *, asked: bool) -> dict[str, Any] | None:
    if tree is None:
        return None
    return {"root": str(tree.root), "may_take_bytes": tree.bound.bytes, "asked": asked}


def _stays(plan: Plan) -> int:
    return plan.kept_bytes + plan.kept_aside_bytes


class _CarryOut(Protocol):
    def __call__(self, *, on_bytes: OnBytes, on_done: Callable[[Checkpoint], None]) -> Pruned: ...


def _carry_out(carry_out: _CarryOut, output: Output) -> Pruned:
    with output.progress("verifying the recovery point") as progress:
        done = carry_out(
            on_bytes=progress.advance,
            on_done=lambda checkpoint: progress.describe(f"done with step {checkpoint.step}"),
        )
    for checkpoint in done.spared:
        output.note(f"step {checkpoint.step} is pinned or being exported by now, and stays")
    if not output.is_json:
        text = f"Removed {count(len(done.removed), 'checkpoint')}"
        text += f" and {len(done.removed_aside)} that lay aside" if done.removed_aside else ""
        text += f", thinned {len(done.thinned)}" if done.thinned else ""
        output.line((f"{text}, freed {format_size(done.freed_bytes)}.", "green"))
    return done


def _todo(*plans: Plan) -> str:
    parts = [
        ("Remove", sum(len(plan.remove) for plan in plans), "checkpoint"),
        ("Remove aside", sum(len(plan.remove_aside) for plan in plans), "checkpoint"),
        ("Thin", sum(len(plan.thin) for plan in plans), "checkpoint"),
    ]
    return ", ".join(f"{word} {count(number, what)}" for word, number, what in parts if number)


def _print_plan(run: Run, policy: Policy, plan: Plan, budget: int | None, output: Output) -> None:
    within = f", within {format_size(budget)}" if budget is not None else ""
    output.line((str(run.path), "bold"), f" under {format_spec(policy.rules)!r} keeps {policy.describe()}{within}")
    output.line()
    if plan.decisions or plan.remove_aside:
        output.table(_table(policy, plan))
        output.line()
    if plan.changes:
        does = what_it_does(plan, f"of {count(len(plan.decisions), 'checkpoint')}")
        going = does[0].upper() + does[1:]
        left = f"{len(plan.keep) + len(plan.thin)} stay ({format_size(plan.kept_bytes)})"
        output.line((f"{going} and frees {format_size(plan.freed_bytes)}; {left}.", "bold"))
    else:
        output.line(f"Nothing to remove: {count(len(plan.keep), 'checkpoint')}, {format_size(plan.kept_bytes)}.")
    if lying := sum(decision.stays for decision in plan.aside):
        output.line(f"{count(lying, 'checkpoint')} ({format_size(plan.kept_aside_bytes)}) lie aside and stay.")


_STYLES = {Outcome.KEEP: "green", Outcome.THIN: "bold yellow", Outcome.REMOVE: "bold red"}


def _table(policy: Policy, plan: Plan) -> Table:
    metric = policy.metric
    columns = (
        Column("Step", "right", essential=True),
        Column("Action", essential=True),
        Column("Size", "right"),
        Column(metric.name if metric else "Metric", "right", folds=True, minimum=12),
        Column("Because", folds=True, essential=True),
    )
    decisions = (*(decision for decision in plan.aside if not decision.stays), *plan.decisions)
    values = align_numbers([metric.value(d.checkpoint.metrics) if metric else None for d in decisions])
    rows = (
        (
            Cell.of(str(decision.checkpoint.step), "bold"),
            Cell.of(decision.outcome.value, _STYLES[decision.outcome]),
            Cell.of(format_size(decision.checkpoint.size_bytes)),
            Cell.of(value),
            Cell(decision.reasons),
        )
        for decision, value in zip(decisions, values, strict=True)
    )
    return Table(columns, tuple(rows)).informative()


def _to_json(policy: Policy, plan: Plan, budget: int | None, done: Pruned | None) -> dict[str, Any]:
    return {
        "policy": format_spec(policy.rules),
        "metric": policy.metric.name if policy.metric else None,
        "mode": policy.metric.mode if policy.metric else None,
        "decisions": [_decision_json(decision) for decision in plan.decisions],
        "aside": [
            {
                **_decision_json(decision),
                "state": decision.checkpoint.state.value,
                "run_id": decision.checkpoint.run_id,
                "path": str(decision.checkpoint.path),
            }
            for decision in plan.aside
        ],
        "budget_bytes": budget,
        "kept_bytes": plan.kept_bytes,
        "kept_aside_bytes": plan.kept_aside_bytes,
        "fits": budget is None or _stays(plan) <= budget,
        "frees_bytes": plan.freed_bytes,
        "applied": done is not None,
        "removed": [checkpoint.generation for checkpoint in done.removed] if done else [],
        "removed_aside": [str(checkpoint.path) for checkpoint in done.removed_aside] if done else [],
        "thinned": [checkpoint.generation for checkpoint in done.thinned] if done else [],
        "freed_bytes": done.freed_bytes if done else 0,
    }


def _decision_json(decision: Decision) -> dict[str, Any]:
    return {
        "step": decision.checkpoint.step,
        "generation": decision.checkpoint.generation,
        "action": decision.outcome.value,
        "keep": decision.stays,
        "reasons": list(decision.reasons),
        "size_bytes": decision.checkpoint.size_bytes,
    }
