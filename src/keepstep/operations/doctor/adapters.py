"""Whether the adapter that a script configures is the one that is trained."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

_CONFIGS = ("LoraConfig", "AdaLoraConfig", "LoHaConfig", "LoKrConfig", "IA3Config", "VeraConfig", "DoraConfig")


def adapter_facts(nodes: Sequence[ast.AST], name_of: Callable[[ast.expr], str]) -> tuple[str, int]:
    """How the adapter gets lost, in words, and the line; empty and 0 where there is none, or it is used.

    Two ways are seen: what `get_peft_model` returns is thrown away, and a config that nothing reads.
    """
    for node in nodes:
        if isinstance(node, ast.Expr) and _calls(node, name_of) == "get_peft_model":
            what = "what get_peft_model(...) returns is thrown away: the base model is what the trainer gets"
            return what, node.lineno
    for node in nodes:
        kind = _calls(node, name_of)
        if isinstance(node, ast.Assign) and kind in _CONFIGS:
            targets = {target.id for target in node.targets if isinstance(target, ast.Name)}
            if targets and not _read(nodes, targets):
                return (
                    f"{next(iter(sorted(targets)))} = {kind}(...) is given to nothing: all weights are trained",
                    node.lineno,
                )
        elif isinstance(node, ast.Expr) and kind in _CONFIGS:
            return f"{kind}(...) is given to nothing: all weights are trained", node.lineno
    return "", 0


def configures_adapter(nodes: Sequence[ast.AST], name_of: Callable[[ast.expr], str]) -> bool:
    """True when an adapter is configured, whether it is lost on the way or not."""
    return any(isinstance(node, ast.Call) and name_of(node.func) in _CONFIGS for node in nodes)


def _calls(node: ast.AST, name_of: Callable[[ast.expr], str]) -> str:
    """The name of what a statement calls, empty where its value is no call."""
    value = node.value if isinstance(node, (ast.Expr, ast.Assign)) else None
    return name_of(value.func) if isinstance(value, ast.Call) else ""


def _read(nodes: Sequence[ast.AST], names: set[str]) -> bool:
    return any(isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id in names for n in nodes)
