"""Where the bytes of a run, or of all runs below a directory, are; and what would free them."""

from keepstep.operations.usage.of_run import LEFTOVERS, usage
from keepstep.operations.usage.of_tree import usage_of_tree
from keepstep.operations.usage.report import Kinds, Litter, Share, Stock, TreeUsage, Unmanaged, Usage

__all__ = [
    "LEFTOVERS",
    "Kinds",
    "Litter",
    "Share",
    "Stock",
    "TreeUsage",
    "Unmanaged",
    "Usage",
    "usage",
    "usage_of_tree",
]
