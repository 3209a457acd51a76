"""From a trainer's own arguments to a retention policy that means what people expect of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import PolicyError, SettingsError
from holdfast.integrations.transformers.arguments import plain
from holdfast.retention import Metric, Mode, Policy, Rule, default_policy, known_mode, parse

Keep = str | Rule | Sequence[Rule | str]


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy, and what a person should know about how it came about (one sentence each)."""

    policy: Policy
    notes: tuple[str, ...] = ()


def choose_policy(args: Any, *, keep: Keep | None, metric: str | None, mode: Mode | None) -> Choice:
    """The policy for `args` (TrainingArguments); `keep`, `metric` and `mode` win over them.

    `save_total_limit=K` with evaluation is the best K plus the newest, without evaluation the newest K; no limit keeps
    all. Raises PolicyError when a metric's direction is unknown or a rule ranks without evaluation.
    """
    check_settings(args)
    evaluates = plain(args.eval_strategy) != "no"
    ranked, notes = _choose_metric(args, metric, mode) if evaluates or metric else (None, [])
    rules = _rules(keep)
    policy = Policy(rules, ranked) if rules else default_policy(args.save_total_limit or None, ranked)
    if not evaluates:
        notes.append(
            "eval_strategy='no': nothing is evaluated, so no checkpoint can be called the best. "
            "Set eval_strategy='steps' to rank them"
        )
    if args.save_only_model:
        notes.append(
            "save_only_model=True: the checkpoints hold weights alone, and none of them can be resumed from. "
            "Set save_only_model=False to go on after a crash"
        )
    return Choice(policy, tuple(notes))


def check_settings(args: Any) -> None:
    """Raises SettingsError for what can't go together with checkpoint management."""
    if getattr(args, "enable_jit_checkpoint", False):
        raise SettingsError(
            "enable_jit_checkpoint=True saves in the middle of a step, past holdfast",
            hint="Set enable_jit_checkpoint=False.",
        )


def _rules(keep: Keep | None) -> tuple[Rule, ...] | None:
    if keep is None:
        return None
    if isinstance(keep, str):
        return parse(keep)
    parts: list[Rule] = []
    for part in keep if isinstance(keep, Sequence) else [keep]:
        parts.extend(parse(part) if isinstance(part, str) else [_rule(part)])
    if not parts:
        raise PolicyError("keep is empty", hint=_KEEP)
    for place, rule in enumerate(parts):
        if any(type(rule) is type(other) for other in parts[:place]):
            raise PolicyError(f"{rule.word()!r} stands twice in keep", hint="Give each rule once.")
    return tuple(parts)


_KEEP = 'Name at least one rule, for example keep="best:3,latest:2".'


def _rule(part: Any) -> Rule:
    if not isinstance(part, Rule):
        raise PolicyError(f"keep takes rules or their text, not {part!r}", hint=_KEEP)
    return part


def _choose_metric(args: Any, metric: str | None, mode: Mode | None) -> tuple[Metric, list[str]]:
    name = metric or args.metric_for_best_model or "eval_loss"
    name = name if name.startswith("eval_") else f"eval_{name}"
    if mode is not None:
        if mode not in ("min", "max"):
            raise PolicyError(f"mode is {mode!r}", hint="It is 'min' (lower is better) or 'max' (higher is better).")
        turned = known_mode(name) not in (None, mode)
        return Metric(name, mode), [_turned(name, mode)] if turned else []
    known = known_mode(name)
    said = _said_by_user(args) if metric is None else None
    if said is not None and known is not None and said != known:
        return Metric(name, said), [_turned(name, said)]
    if known is None and said is None:
        raise PolicyError(
            f"nobody can know whether higher or lower is better for {name!r}",
            hint="Say it: holdfast.attach(trainer, mode='max') or mode='min'.",
        )
    chosen = said or known
    assert chosen is not None
    notes: list[str] = []
    if metric is None and args.greater_is_better is not None and args.greater_is_better != (chosen == "max"):
        notes.append(f"{name}: {_words(chosen)}; transformers alone would have taken it the other way round")
    return Metric(name, chosen), notes


def _turned(name: str, mode: Mode) -> str:
    return f"{name}: {_words(mode)}, as you say, which is the other way round than usual. Is that meant?"


def _said_by_user(args: Any) -> Mode | None:
    """The direction that the user gave, None where it may be transformers' guess (greater unless `...loss`)."""
    name, greater = args.metric_for_best_model, args.greater_is_better
    if name is None or greater is None or greater == (not name.endswith("loss")):
        return None
    return "max" if greater else "min"


def _words(mode: Mode) -> str:
    return "lower is better" if mode == "min" else "higher is better"
