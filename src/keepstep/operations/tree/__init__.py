"""A budget for all runs below a directory: what each may take, who gives up for whom, and room for a save."""

from keepstep.operations.tree.budget import Budget, NoTreeBudget, must_have_budget, tree_above
from keepstep.operations.tree.locks import LocksRefused
from keepstep.operations.tree.room import Lack, TreeRoom
from keepstep.operations.tree.shares import Member, Share, Way, in_order, shares, way_for
from keepstep.operations.tree.showing import (
    Planned,
    TreeLimit,
    TreeReport,
    ask_by_hand,
    clear_budget,
    limits_of,
    new_budget,
    report,
    set_budget,
)

__all__ = [
    "Budget",
    "Lack",
    "LocksRefused",
    "Member",
    "NoTreeBudget",
    "Planned",
    "Share",
    "TreeLimit",
    "TreeReport",
    "TreeRoom",
    "Way",
    "ask_by_hand",
    "clear_budget",
    "in_order",
    "limits_of",
    "must_have_budget",
    "new_budget",
    "report",
    "set_budget",
    "shares",
    "tree_above",
    "way_for",
]
