"""Directions of metrics and the comparison of their values."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.errors import PolicyError
from keepstep.retention import Metric, Mode, known_mode, nearest

LOWER = """
    loss eval_loss test_loss train_loss eval_data1_loss nll_loss eval_nll_loss reward_loss losses
    perplexities eval_bits_per_byte eval_neg_log_likelihood
    perplexity eval_perplexity ppl eval_ppl word_perplexity,none bits_per_byte bpb
    wer eval_wer cer eval_cer ter eer nll eval_nll neg_log_likelihood
    mse mae rmse eval_rmse error error_rate word_error_rate top5_error eval/error Eval_Loss
    feature_map_loss loss_per_token cross_entropy validation.loss val-loss
"""
HIGHER = """
    accuracies accuracy eval_accuracy mean_token_accuracy eval_mean_token_accuracy acc acc_norm,none rewards/accuracies
    rewards/margins eval_rewards/margins rewards/chosen reward eval_reward
    win_rate eval/win_rate
    f1 eval_f1 f1_macro eval_macro_f1 f1-score
    bleu bleu4 eval_bleu sacrebleu rouge rouge1 eval_rouge2 rougeL eval_rougeL eval_rougeLsum meteor
    chrf chrf++
    exact_match eval_exact_match em precision recall recall@5 auc roc_auc eval_roc_auc
    mcc matthews_correlation eval_matthews_correlation pearson spearman spearmanr r2 eval_r2
    map mAP@0.5 map50 ndcg ndcg@10 mrr pass@1 eval_pass@10 top_5_accuracy
"""
UNKNOWN = """
    runtime eval_runtime samples_per_second tokens_per_second entropy learning_rate grad_norm epoch step
    num_tokens kl score glossary lossy macro eval_ test_ eval
    loss_at_best_accuracy_step accuracy_then_loss_time
    neg_mean_squared_error rewards/rejected reward_std acc_stderr,none loss_scale
    wer_improvement loss_reduction error_free_rate mse_skill information_gain
"""


@pytest.mark.parametrize("name", LOWER.split())
def test_lower_is_better(name: str) -> None:
    assert known_mode(name) == "min"


@pytest.mark.parametrize("name", HIGHER.split())
def test_higher_is_better(name: str) -> None:
    assert known_mode(name) == "max"


@pytest.mark.parametrize("name", [*UNKNOWN.split(), "", " ", "///"])
def test_a_name_that_does_not_tell_has_no_direction(name: str) -> None:
    assert known_mode(name) is None


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("eval_los", ["eval_loss", "eval_f1"], ["eval_loss"]),
        ("loss", ["eval_b_loss", "eval_a_loss", "eval_wer"], ["eval_a_loss", "eval_b_loss"]),
        ("eval_f1", ["eval_loss", "eval_macro_f1"], ["eval_macro_f1"]),
        ("eval_acc", ["eval_accuracy", "eval_loss"], ["eval_accuracy"]),
        ("eval_accuarcy", ["eval_accuracy", "eval_mean_token_accuracy", "eval_loss"], ["eval_accuracy"]),
        ("rougel", ["eval_rougeL", "eval_rouge1", "eval_bleu"], ["eval_rougeL", "eval_rouge1"]),
        ("eval_vibes", ["eval_loss", "eval_runtime"], []),
        ("eval_", ["eval_loss"], []),
        ("loss", [f"eval_{number}_loss" for number in range(9)], [f"eval_{number}_loss" for number in range(3)]),
        ("loss", [], []),
    ],
)
def test_the_nearest_names_are_those_that_may_be_meant(name: str, names: list[str], expected: list[str]) -> None:
    assert nearest(name, names) == expected


@given(st.text(max_size=30))
def test_any_name_has_an_answer(name: str) -> None:
    assert known_mode(name) in ("min", "max", None)


@pytest.mark.parametrize(
    ("mode", "a", "b", "expected"),
    [
        ("min", 1.0, 2.0, True),
        ("min", 2.0, 1.0, False),
        ("min", 1.0, 1.0, False),
        ("max", 2.0, 1.0, True),
        ("max", 1.0, 2.0, False),
        ("min", math.inf, math.nan, True),
        ("max", -math.inf, math.nan, True),
        ("min", math.nan, math.inf, False),
        ("max", math.nan, 0.0, False),
        ("min", math.nan, math.nan, False),
    ],
)
def test_better_is_strict_and_nan_is_worst(mode: Mode, a: float, b: float, expected: bool) -> None:
    assert Metric("m", mode).better(a, b) is expected


@given(st.sampled_from(["min", "max"]), st.floats(), st.floats())
def test_never_are_both_better(mode: Mode, a: float, b: float) -> None:
    metric = Metric("m", mode)
    assert not (metric.better(a, b) and metric.better(b, a))


@pytest.mark.parametrize(
    ("name", "metrics", "expected"),
    [
        ("loss", {"loss": 1.0, "eval_loss": 2.0}, 1.0),
        ("loss", {"eval_loss": 2.0}, 2.0),
        ("eval_loss", {"loss": 1.0, "eval_loss": 2.0}, 2.0),
        ("eval_loss", {"loss": 1.0}, 1.0),
        ("eval_loss", {"eval_accuracy": 1.0}, None),
        ("loss", {}, None),
    ],
)
def test_value_is_found_with_or_without_the_prefix(
    name: str, metrics: dict[str, float], expected: float | None
) -> None:
    assert Metric(name, "min").value(metrics) == expected


def test_a_nan_value_is_a_value() -> None:
    value = Metric("loss", "min").value({"loss": math.nan})
    assert value is not None
    assert math.isnan(value)


def test_direction_comes_from_the_name_unless_given() -> None:
    assert Metric.of("eval_wer") == Metric("eval_wer", "min")
    assert Metric.of("eval_wer", "max").mode == "max"
    assert Metric.of("my_score", "max").direction == "higher is better"
    with pytest.raises(PolicyError, match="my_score") as error:
        Metric.of("my_score")
    assert "mode=" in error.value.hint


@pytest.mark.parametrize(("name", "mode"), [("", "min"), ("  ", "max"), ("loss", "lower"), ("loss", None)])
def test_a_metric_without_name_or_mode_is_refused(name: str, mode: Any) -> None:
    with pytest.raises(PolicyError):
        Metric(name, cast("Mode", mode))
