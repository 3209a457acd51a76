"""Where the bytes of a run, or of all runs below a directory, are; and what would free them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepstep.faces import handing_on

if TYPE_CHECKING:
    from keepstep.operations.usage.of_run import LEFTOVERS, share_of, usage
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
    "share_of",
    "usage",
    "usage_of_tree",
]

_HOMES = {
    "of_run": ("LEFTOVERS", "share_of", "usage"),
    "of_tree": ("usage_of_tree",),
    "report": ("Kinds", "Litter", "Share", "Stock", "TreeUsage", "Unmanaged", "Usage"),
}
__getattr__, __dir__ = handing_on(__name__, _HOMES)
