"""Evaluation and ranking: is there a best checkpoint, is it the right one, and is it saved."""

from __future__ import annotations

from keepstep.operations.doctor.facts import Facts, full_name, given_mode, is_trainers
from keepstep.operations.doctor.found import Found
from keepstep.operations.doctor.rules.writing import ANYWHERE, FILES, RUN, TRAINER, rule
from keepstep.operations.doctor.settings import NotKnown
from keepstep.retention import Best, Mode, known_mode


@rule(
    "E101",
    "ranking is asked for, and nothing is evaluated",
    why="Without evaluation there is no metric: no checkpoint can be called the best. With save_strategy='best' the "
    "stock Trainer then saves nothing at all and says nothing; with load_best_model_at_end it refuses, or loads "
    "nothing.",
    fix="Set eval_strategy='steps' and eval_steps, and give the trainer an eval_dataset; or drop what ranks.",
    sources=ANYWHERE - {RUN},
)
def ranking_without_evaluation(facts: Facts) -> Found | None:
    """A metric, the best model or `best:K` is asked for while `eval_strategy` is "no"."""
    if facts.evaluates:
        return None
    settings = facts.settings
    asked: list[tuple[str, str]] = []
    if settings.word("save_strategy") == "best":
        asked.append(("save_strategy", "save_strategy='best'"))
    if settings["load_best_model_at_end"]:
        asked.append(("load_best_model_at_end", "load_best_model_at_end=True"))
    if settings["metric_for_best_model"]:
        asked.append(("metric_for_best_model", f"metric_for_best_model={settings['metric_for_best_model']!r}"))
    rules = facts.policy.rules if facts.attached and facts.policy and facts.chosen is None else ()
    if any(isinstance(rule, Best) for rule in rules):
        asked.append(("keep", "keep='best:...'"))
    if not asked:
        return None
    what = f"{' and '.join(text for _, text in asked)}, but eval_strategy='no': nothing is evaluated"
    return Found(what, tuple(name for name, _ in asked))


@rule(
    "W102",
    "nothing is evaluated",
    why="save_total_limit then keeps the newest checkpoints, however good they are; the last weights are rarely the "
    "best ones.",
    fix="Set eval_strategy='steps' to rank them.",
)
def no_evaluation(facts: Facts) -> Found | None:
    """`eval_strategy` is "no", its default: checkpoints are kept by age alone."""
    if facts.evaluates or not facts.saves or facts.chosen is not None:
        return None
    if facts.source != RUN and ranking_without_evaluation.check(facts):
        return None
    return Found(
        "eval_strategy='no': nothing is evaluated, so no checkpoint can be called the best",
        ("eval_strategy", "save_total_limit"),
    )


@rule(
    "E103",
    "load_best_model_at_end does not go with these strategies",
    why="TrainingArguments raises ValueError: the best can only be loaded if every checkpoint was evaluated.",
    fix="Give both the same strategy, and a save_steps that is a multiple of eval_steps.",
    sources=FILES,
)
def load_best_is_refused(facts: Facts) -> Found | None:
    """`load_best_model_at_end` needs the same strategy for saves and evaluations, and save_steps a multiple of
    eval_steps.
    """
    settings = facts.settings
    saves, evaluates = settings.word("save_strategy"), settings.word("eval_strategy")
    if not settings["load_best_model_at_end"] or saves == "best" or evaluates == "no":
        return None
    if saves != evaluates:
        what = f"load_best_model_at_end=True with save_strategy={saves!r} and eval_strategy={evaluates!r}"
        return Found(what, ("save_strategy", "eval_strategy", "load_best_model_at_end"))
    every, evals = settings.number("save_steps"), settings.eval_steps
    if saves == "steps" and evals > 0 and ((every < 1) != (evals < 1) or not _is_multiple(every, evals)):
        what = f"load_best_model_at_end=True with save_steps={every:g}, no multiple of eval_steps={evals:g}"
        return Found(what, ("save_steps", "eval_steps", "load_best_model_at_end"))
    return None


@rule(
    "W104",
    "the best step may never be saved",
    why="The best step is then one that was evaluated and not saved. load_best_model_at_end loads nothing and says "
    "nothing, and the state names no best checkpoint, or an older one.",
    fix="Set save_steps to eval_steps.",
    solved="a new best is saved, whenever it is found",
)
def best_between_saves(facts: Facts) -> Found | None:
    """More steps are evaluated than saved, and the best is wanted."""
    settings = facts.settings
    if not facts.ranks or not facts.evaluates or load_best_is_refused.check(facts):
        return None
    saves, evaluates = settings.word("save_strategy"), settings.word("eval_strategy")
    if saves != "steps" or evaluates != "steps":
        return None
    every, evals = settings.number("save_steps"), settings.eval_steps
    if 0 < evals < every and (evals < 1) == (every < 1):
        what = f"evaluated every {_steps(evals)}, saved every {_steps(every)}: the best may fall in between"
        return Found(what, ("save_steps", "eval_steps"))
    return None


@rule(
    "W105",
    "saved steps that are not evaluated",
    why="A checkpoint without a metric can't be ranked: it is never the best, whatever it is worth.",
    fix="Make save_steps a multiple of eval_steps.",
)
def saves_without_metric(facts: Facts) -> Found | None:
    """`save_steps` is no multiple of `eval_steps`."""
    settings = facts.settings
    if settings.word("save_strategy") != "steps" or settings.word("eval_strategy") != "steps":
        return None
    every, evals = settings.number("save_steps"), settings.eval_steps
    if evals <= 0 or (every < 1) != (evals < 1) or _is_multiple(every, evals):
        return None
    if facts.source in FILES and _is_refused(facts):
        return None
    what = f"saved every {_steps(every)}, evaluated every {_steps(evals)}: some checkpoints have no metric"
    return Found(what, ("save_steps", "eval_steps"))


@rule(
    "E106",
    "save_strategy='best' without a metric",
    why="The Trainer raises ValueError before the first step.",
    fix="Set metric_for_best_model='eval_loss', or another metric that is evaluated.",
    sources=FILES,
)
def best_without_metric(facts: Facts) -> Found | None:
    """`save_strategy="best"` needs `metric_for_best_model`."""
    settings = facts.settings
    if settings.word("save_strategy") != "best" or settings["metric_for_best_model"]:
        return None
    if settings["load_best_model_at_end"]:
        return None  # then transformers takes the loss
    return Found("save_strategy='best', and no metric_for_best_model", ("save_strategy",))


@rule(
    "W107",
    "the metric's direction is guessed wrong",
    why="transformers takes every metric as higher-is-better, unless its name ends in 'loss': best model, limit and "
    "early stopping then go for the worst.",
    fix="Say it: greater_is_better=False (or True).",
    solved="a table of metrics knows the direction; an unknown one is taken as the Trainer has it, which is said",
)
def direction_guessed(facts: Facts) -> Found | None:
    """`greater_is_better` is left out, and the guess is wrong, or nobody can know."""
    name = facts.settings["metric_for_best_model"]
    if not name or facts.settings["greater_is_better"] is not None:
        return None
    guess, known = _guess(str(name)), known_mode(str(name))
    if known == guess:
        return None
    words = "is lower-is-better" if known == "min" else "is higher-is-better" if known else "tells no direction"
    taken = "higher" if guess == "max" else "lower"
    return Found(f"metric_for_best_model={name!r} {words}; transformers takes it as {taken}-is-better",
                 ("metric_for_best_model",))  # fmt: skip


@rule(
    "W108",
    "the metric is ranked against its name",
    why="A direction that was turned around by mistake keeps the worst checkpoints and removes the best.",
    fix="Drop greater_is_better (or mode=), unless it is meant.",
)
def direction_turned(facts: Facts) -> Found | None:
    """The direction that is said is not the one that the metric's name tells."""
    if facts.chosen is not None:
        name, said = facts.chosen.name, facts.chosen.mode
    else:
        name = facts.value(facts.metric, "metric") or facts.settings["metric_for_best_model"]
        said = given_mode(facts)
    if not name or said is None or known_mode(str(name)) in (None, said):
        return None
    full = full_name(str(name))
    words = "lower is better" if said == "min" else "higher is better"
    return Found(
        f"{full}: {words}, as you say, which is the other way round than usual. Is that meant?",
        ("greater_is_better", "metric_for_best_model"),
    )


@rule(
    "I109",
    "the direction is not the one that transformers guesses",
    why="Tools that read greater_is_better from older runs of yours may have ranked the other way.",
    fix="Say greater_is_better yourself, and everybody reads the same.",
    sources=frozenset({TRAINER}),
)
def direction_corrected(facts: Facts) -> Found | None:
    """keepstep's table of metrics and transformers' guess disagree; the table is followed."""
    name, metric = facts.settings["metric_for_best_model"], facts.chosen
    if not name or metric is None or facts.settings["greater_is_better"] is not None:
        return None
    if facts.value(facts.metric, "metric") or facts.value(facts.mode, "mode"):
        return None
    if metric.mode == _guess(str(name)):
        return None
    return Found(
        f"{metric.name}: {metric.direction}; transformers alone would have taken it the other way round"
        f" ({_turned(metric.mode)} does, where that is meant)"
    )


@rule(
    "E110",
    "nobody can know which way the metric is better",
    why="keepstep.attach refuses to guess: a wrong guess would keep the worst, and the Trainer has no say in a metric "
    "that it doesn't go by.",
    fix="Say it: keepstep.attach(trainer, mode='max') or mode='min'.",
    sources=FILES,
)
def direction_unknown(facts: Facts) -> Found | None:
    """A metric that `keepstep.attach` names, the Trainer does not, and no table knows, needs a direction."""
    name = facts.value(facts.metric, "metric")
    if not facts.attached or not name or facts.value(facts.mode, "mode") or known_mode(str(name)):
        return None
    if is_trainers(facts.settings, str(name)):
        return None
    return Found(f"metric {name!r}: nobody can know whether higher or lower is better", ("metric_for_best_model",))


@rule(
    "I111",
    "a metric whose name tells no direction",
    why="The Trainer's own direction is taken: where greater_is_better is left out that is higher-is-better, unless "
    "the name ends in 'loss'.",
    fix="Say greater_is_better, or keepstep.attach(trainer, mode=...), where it is the other way round.",
    sources=FILES | {TRAINER},
)
def direction_from_trainer(facts: Facts) -> Found | None:
    """No table knows the metric, and nobody gives its direction, or gives the one that transformers guesses."""
    settings = facts.settings
    name = settings["metric_for_best_model"]
    named = facts.value(facts.metric, "metric")
    if not facts.attached or not facts.evaluates or not name or (named and not is_trainers(settings, str(named))):
        return None
    if facts.value(facts.mode, "mode") or settings["greater_is_better"] is not None or known_mode(str(name)):
        return None
    mode = facts.chosen.mode if facts.chosen else _guess(str(name))
    words = "lower" if mode == "min" else "higher"
    return Found(
        f"{full_name(str(name))}: {words} is better, as the Trainer takes it; the name tells nothing"
        f" ({_turned(mode)} turns it round)",
        ("metric_for_best_model",),
    )


def _is_refused(facts: Facts) -> bool:
    """True where E103 says it already."""
    try:
        return load_best_is_refused.check(facts) is not None
    except NotKnown:
        return False


def _guess(name: str) -> Mode:
    """The direction that transformers takes where none is given."""
    return "min" if name.endswith("loss") else "max"


def _turned(mode: Mode) -> str:
    """What makes attach rank the other way."""
    return f"attach(mode={'min' if mode == 'max' else 'max'!r})"


def _is_multiple(every: float, part: float) -> bool:
    """As transformers computes it, for parts of the training too."""
    scale = 1_000_000 if every < 1 else 1
    return round(every * scale) % max(round(part * scale), 1) == 0


def _steps(number: float) -> str:
    return f"{number:.0%} of the training" if number < 1 else f"{number:g} steps"
