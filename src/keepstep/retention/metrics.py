"""A metric by which checkpoints are ranked: its name, its direction, and how two values compare."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from keepstep.errors import PolicyError

Mode = Literal["min", "max"]
"""Which way is better: `min` (lower) or `max` (higher)."""

LOWER_IS_BETTER = """
    loss perplexity ppl nll bpc bpb bits_per_byte bits_per_character cross_entropy
    negative_log_likelihood neg_log_likelihood
    wer cer ter eer mer ser error err mse mae rmse mape smape msle ece brier fid
"""
HIGHER_IS_BETTER = """
    accuracy acc f1 fbeta precision recall specificity sensitivity auc auroc roc_auc auprc pr_auc
    mcc matthews correlation pearson pearsonr spearman spearmanr kappa r2
    bleu sacrebleu gleu rouge rougel rougelsum meteor chrf bertscore comet exact exact_match em
    map ndcg mrr hits iou miou dice win winrate win_rate pass reward margin
"""
_MODES: dict[str, Mode] = {
    **dict.fromkeys(LOWER_IS_BETTER.split(), "min"),
    **dict.fromkeys(HIGHER_IS_BETTER.split(), "max"),
}
_TURNS_MEANING = frozenset(
    {"neg", "negative", "inv", "inverse", "rejected", "scale", "weight", "count"}
    | {"std", "stdev", "stddev", "stderr", "var", "variance"}
    | {"improvement", "reduction", "gain", "skill", "free"}
)
"""Words that change what a known word means: `neg_mean_squared_error`, `rewards/rejected`, `acc_stderr`, `wer_gain`."""
_SEPARATORS = r"[_\-/.:,\s]+"
_PREFIXES = ("eval_", "test_")


def known_mode(metric: str) -> Mode | None:
    """Direction of a metric as its name tells it, None when the name doesn't tell.

    A leading `eval_` or `test_` and upper case don't matter. The whole name is looked up first, then its
    words (`rewards/accuracies`, `eval_rougeL`, `f1_macro`, `pass@1`). Where known words disagree, the name's
    last word decides if it is a known one (`reward_loss` is a loss), else nothing does.
    """
    name = _without_prefix(metric.strip().lower())
    if name in _MODES:
        return _MODES[name]
    words = [word for word in re.split(_SEPARATORS, name) if word]
    if not _TURNS_MEANING.isdisjoint(words):
        return None
    modes: list[Mode | None] = [_mode_of_word(word) for word in words]
    known: list[Mode] = [mode for mode in modes if mode is not None]
    if len(set(known)) == 1:
        return known[0]
    return modes[-1] if known else None


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Of `names` those that may be meant by `name`, at most three, the likeliest first; none where nothing is like it.

    A leading `eval_` or `test_` and upper case don't matter; `f1` is in `macro_f1`, and `acc` begins `accuracy`.
    """
    found = [(_likeness(name, other), other) for other in sorted(names)]
    likely = sorted((pair for pair in found if pair[0] >= _LIKE), key=lambda pair: -pair[0])
    return [other for _, other in likely[:3]]


class Metric(msgspec.Struct, frozen=True):
    """A metric to rank by: its name as logged and which way is better.

    PolicyError when the name is empty or the mode neither `min` nor `max`.
    """

    name: str
    mode: Mode

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise PolicyError("a metric needs a name", hint="Name it as it is logged, for example eval_loss.")
        if self.mode not in ("min", "max"):
            raise PolicyError(
                f"metric {self.name!r} can't be ranked by mode {self.mode!r}",
                hint="Use 'min' where lower is better and 'max' where higher is better.",
            )

    @classmethod
    def of(cls, name: str, mode: Mode | None = None) -> Metric:
        """The metric, its direction from the name when `mode` is None; PolicyError when that can't tell."""
        mode = mode or known_mode(name)
        if mode is None:
            raise PolicyError(
                f"the name {name!r} doesn't tell whether lower or higher is better",
                hint="Say so: mode='min' or mode='max' (greater_is_better=False or True), --mode for a command.",
            )
        return cls(name, mode)

    @property
    def direction(self) -> str:
        """`lower is better` or `higher is better`."""
        return "lower is better" if self.mode == "min" else "higher is better"

    def better(self, a: float, b: float) -> bool:
        """True when `a` is strictly better than `b`; any number is better than NaN, NaN than nothing."""
        if math.isnan(a) or math.isnan(b):
            return math.isnan(b) and not math.isnan(a)
        return a < b if self.mode == "min" else a > b

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The value (may be NaN) under the name, else under the name with or without `eval_`, else None."""
        found = metrics.get(self.name)
        if found is not None:
            return found
        bare = self.name.removeprefix("eval_")
        other = bare if bare != self.name else f"eval_{self.name}"
        return metrics.get(other)


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


_LIKE = 0.6
"""Share of letters in common, in order, from which on two names may be meant for one."""


def _likeness(one: str, other: str) -> float:
    from difflib import SequenceMatcher

    one, other = (_without_prefix(name.strip().lower()) for name in (one, other))
    shorter, longer = sorted((one, other), key=len)
    contained = len(shorter) > 1 and shorter in longer
    return max(SequenceMatcher(None, one, other).ratio(), _LIKE if contained else 0.0)


def _mode_of_word(word: str) -> Mode | None:
    return next((_MODES[form] for form in _forms(word) if form in _MODES), None)


def _forms(word: str) -> Iterator[str]:
    """The word as it stands, then without cut-off (`ndcg@10`), version (`bleu4`, `chrf++`) and plural."""
    yield word
    stem = word.partition("@")[0].rstrip("0123456789+")
    yield stem
    for plural, singular in (("ies", "y"), ("es", ""), ("s", "")):
        if stem.endswith(plural):
            yield stem.removesuffix(plural) + singular
