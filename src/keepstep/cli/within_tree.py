"""What `prune --root` leaves a run of a tree that has a budget: reckoned once for all runs of that tree."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from keepstep.operations.tree import Planned, TreeLimit, limits_of, tree_above
from keepstep.paths import expanded
from keepstep.run import Run

_KNOWN = "keepstep.tree-limits"


def tree_limit(run: Run, planned: Planned) -> TreeLimit | None:
    """What is left to one of the runs below `--root`, by the budget of the tree that it lies in; None where it need not
    give up more than `planned` says. Runs of that tree that are not below `--root` count, and give nothing.
    """
    context = click.get_current_context()
    roots = [os.path.realpath(expanded(root)) for root in context.params.get("roots") or ()]
    path = os.path.realpath(run.path)
    if not _below(path, roots) or (tree := tree_above(path)) is None:
        return None
    known = context.meta.setdefault(_KNOWN, {})
    if tree not in known:
        known[tree] = limits_of(tree, lambda one: planned(one) if _below(os.path.realpath(one.path), roots) else None)
    return known[tree].get(path)


def _below(path: str, roots: Sequence[str]) -> bool:
    return any(os.path.commonpath((path, root)) == root for root in roots)
