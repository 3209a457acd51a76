"""What is wrong, or may go wrong, with a training's checkpoints: rules with stable ids, and who puts them to what."""

from keepstep.operations.doctor.examine import Options, examine, examine_run, examine_together, judge, rule_named
from keepstep.operations.doctor.findings import Finding, Gap, Report, Rule, Severity
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.reading.values import COMMAND_LINE
from keepstep.operations.doctor.rules import GROUPS, RULES, rules_of

__all__ = [
    "COMMAND_LINE",
    "GROUPS",
    "RULES",
    "Finding",
    "Gap",
    "Options",
    "Report",
    "Rule",
    "Severity",
    "Where",
    "examine",
    "examine_run",
    "examine_together",
    "judge",
    "rule_named",
    "rules_of",
]
