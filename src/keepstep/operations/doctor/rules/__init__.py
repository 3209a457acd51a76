"""Every rule, by the number of its id."""

from __future__ import annotations

from types import ModuleType

from keepstep.operations.doctor.findings import Rule
from keepstep.operations.doctor.rules import failing, keeping, models, places, ranking, resuming, runs

GROUPS: tuple[tuple[str, ModuleType], ...] = (
    ("Evaluation and ranking", ranking),
    ("What is kept", keeping),
    ("Resuming", resuming),
    ("Where checkpoints go", places),
    ("How often to save", failing),
    ("What is saved of the model", models),
    ("A run directory", runs),
)
"""The chapters of the documentation and the rules' modules."""


def rules_of(module: ModuleType) -> tuple[Rule, ...]:
    """The rules that a module defines, by number."""
    return tuple(sorted({r for r in vars(module).values() if isinstance(r, Rule)}, key=lambda r: r.number))


RULES: dict[str, Rule] = {rule.id: rule for _, module in GROUPS for rule in rules_of(module)}
"""By id, in the order of the numbers."""
