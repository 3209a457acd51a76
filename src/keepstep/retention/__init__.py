"""Retention as arithmetic: checkpoints, a policy and a time in; a plan with reasons out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepstep.faces import handing_on

if TYPE_CHECKING:
    from keepstep.retention.certainty import FEWEST_EVALUATIONS, Certainty, certainty_of, noise_of
    from keepstep.retention.metrics import Metric, Mode, known_mode, nearest
    from keepstep.retention.plan import (
        DAMAGED,
        PINNED,
        Before,
        Decision,
        Outcome,
        Plan,
        Policy,
        default_policy,
        make_plan,
        rank,
        without_aside,
    )
    from keepstep.retention.pressure import Measure, entries, fit, size
    from keepstep.retention.rules import (
        All,
        Best,
        Context,
        Daily,
        Every,
        Hold,
        Hourly,
        Latest,
        Pending,
        Pinned,
        Rule,
        Within,
    )
    from keepstep.retention.spec import format_spec, parse, rule_table

__all__ = [
    "DAMAGED",
    "FEWEST_EVALUATIONS",
    "PINNED",
    "All",
    "Before",
    "Best",
    "Certainty",
    "Context",
    "Daily",
    "Decision",
    "Every",
    "Hold",
    "Hourly",
    "Latest",
    "Measure",
    "Metric",
    "Mode",
    "Outcome",
    "Pending",
    "Pinned",
    "Plan",
    "Policy",
    "Rule",
    "Within",
    "certainty_of",
    "default_policy",
    "entries",
    "fit",
    "format_spec",
    "known_mode",
    "make_plan",
    "nearest",
    "noise_of",
    "parse",
    "rank",
    "rule_table",
    "size",
    "without_aside",
]

_HOMES = {
    "certainty": ("Certainty", "FEWEST_EVALUATIONS", "certainty_of", "noise_of"),
    "metrics": ("Metric", "Mode", "known_mode", "nearest"),
    "plan": (
        "Before", "DAMAGED", "Decision", "Outcome", "PINNED", "Plan", "Policy", "default_policy", "make_plan", "rank",
        "without_aside",
    ),
    "pressure": ("Measure", "entries", "fit", "size"),
    "rules": (
        "All", "Best", "Context", "Daily", "Every", "Hold", "Hourly", "Latest", "Pending", "Pinned", "Rule", "Within",
    ),
    "spec": ("format_spec", "parse", "rule_table"),
}  # fmt: skip
__getattr__, __dir__ = handing_on(__name__, _HOMES)
