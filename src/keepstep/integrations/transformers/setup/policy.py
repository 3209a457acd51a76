"""From a trainer's own arguments to a retention policy that means what people expect of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keepstep.errors import PolicyError
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.retention import Best, Metric, Mode, Policy, Rule, default_policy, known_mode, parse

Keep = str | Rule | Sequence[Rule | str]


def choose_policy(args: Any, *, keep: Keep | None, metric: str | None, mode: Mode | None) -> Policy:
    """The policy for `args` (TrainingArguments); `keep`, `metric` and `mode` win over them.

    `save_total_limit=K` with evaluation is the best K plus the newest, without evaluation the newest K; no limit keeps
    all. Raises PolicyError when `metric` is a name whose direction nobody gives, or a rule ranks without evaluation.
    """
    evaluates = plain(args.eval_strategy) != "no"
    ranked = _choose_metric(args, metric, mode) if evaluates or metric else None
    rules = _rules(keep)
    limit = args.save_total_limit
    return Policy(rules, ranked) if rules else default_policy(limit if limit and limit > 0 else None, ranked)


def asks_for_best(args: Any, *, keep: Keep | None, metric: str | None) -> bool:
    """True where somebody wants the best step, which then is saved whenever it is found; a limit alone says no such
    thing. A metric is named, the best is to be loaded at the end, or a rule keeps the best. Raises PolicyError.
    """
    named = metric or args.metric_for_best_model or args.load_best_model_at_end
    return bool(named) or any(isinstance(rule, Best) for rule in _rules(keep) or ())


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


def _choose_metric(args: Any, metric: str | None, mode: Mode | None) -> Metric:
    """The metric and its direction: the one that is said, else the one its name tells, else the trainer's own."""
    name = as_evaluated(metric or args.metric_for_best_model or "eval_loss")
    if mode is not None:
        if mode not in ("min", "max"):
            raise PolicyError(f"mode is {mode!r}", hint="It is 'min' (lower is better) or 'max' (higher is better).")
        return Metric(name, mode)
    theirs = trainers_metric(args)
    if theirs is not None and theirs.name != name:
        theirs = None
    chosen = (said_by_user(args) if theirs else None) or known_mode(name) or (theirs.mode if theirs else None)
    if chosen is None:
        raise PolicyError(
            f"nobody can know whether higher or lower is better for {name!r}",
            hint="Say it: keepstep.attach(trainer, mode='max') or mode='min'.",
        )
    return Metric(name, chosen)


def as_evaluated(name: str) -> str:
    """A metric's name as the Trainer looks for it among what an evaluation returns: `eval_loss` of `loss`."""
    return name if name.startswith("eval_") else f"eval_{name}"


def said_by_user(args: Any) -> Mode | None:
    """The direction that the user gave, None where it may be transformers' guess (greater unless `...loss`).

    The arguments put the guess where nothing was given, so who gave the same can't be told from who gave nothing.
    """
    name, greater = args.metric_for_best_model, args.greater_is_better
    if name is None or greater is None or greater == (not name.endswith("loss")):
        return None
    return "max" if greater else "min"


def trainers_metric(args: Any) -> Metric | None:
    """The metric and the direction that the Trainer itself goes by; None where it has none."""
    if args.metric_for_best_model is None:
        return None
    return Metric(as_evaluated(args.metric_for_best_model), "max" if args.greater_is_better else "min")
