"""Retention as arithmetic: checkpoints, a policy and a time in; a plan with reasons out."""

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
from keepstep.retention.rules import All, Best, Context, Daily, Every, Hold, Hourly, Latest, Pinned, Rule, Within
from keepstep.retention.spec import format_spec, parse, rule_table

__all__ = [
    "DAMAGED",
    "PINNED",
    "All",
    "Before",
    "Best",
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
    "Pinned",
    "Plan",
    "Policy",
    "Rule",
    "Within",
    "default_policy",
    "entries",
    "fit",
    "format_spec",
    "known_mode",
    "make_plan",
    "nearest",
    "parse",
    "rank",
    "rule_table",
    "size",
    "without_aside",
]
