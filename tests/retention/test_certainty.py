"""How sure the best is: the noise that is told from curves of which it is known, and what is said by it."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence

import pytest

from keepstep.model import Checkpoint, Kind
from keepstep.retention import FEWEST_EVALUATIONS, Metric, certainty_of, noise_of
from tests.checkpoints import make_checkpoint

LOSS = Metric("eval_loss", "min")
SIGMA = 0.02
SHAPES: dict[str, Callable[[float], float]] = {
    "flat": lambda _: 2.0,
    "trend": lambda part: 3 - part,
    "falls": lambda part: 2 + math.exp(-4 * part),
    "u": lambda part: 2 + 1.2 * (part - 0.6) ** 2,
    "jump": lambda part: 2.0 if part >= 0.5 else 3.0,
    "spike": lambda part: 9.0 if 0.4 <= part < 0.42 else 2.0,
}


def curve(shape: str, count: int, random_: random.Random, sigma: float = SIGMA) -> list[float]:
    return [SHAPES[shape](n / count) + random_.gauss(0, sigma) for n in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("count", "low", "high"), [(10, 0.7, 1.9), (20, 0.8, 1.25), (50, 0.9, 1.15)])
def test_the_noise_of_a_course_is_what_was_put_in(shape: str, count: int, low: float, high: float) -> None:
    random_ = random.Random(3)
    found = [noise_of(curve(shape, count, random_)) for _ in range(400)]
    median = statistics.median(value for value in found if value is not None)
    assert low < median / SIGMA < high


def test_no_scale_and_no_place_change_it() -> None:
    values = curve("u", 30, random.Random(1))
    sigma = noise_of(values)
    assert sigma is not None
    assert noise_of([1000 * value - 7 for value in values]) == pytest.approx(1000 * sigma)
    assert noise_of([-value for value in values]) == pytest.approx(sigma)


def test_few_evaluations_say_nothing() -> None:
    values = curve("flat", FEWEST_EVALUATIONS, random.Random(1))
    assert noise_of(values) is not None
    assert noise_of(values[:-1]) is None
    assert noise_of([*values[:-1], math.nan]) is None
    assert noise_of([]) is None


def test_what_is_not_finite_is_left_out() -> None:
    values = curve("falls", 20, random.Random(1))
    odd = [*values[:5], math.nan, *values[5:9], math.inf, *values[9:], -math.inf]
    assert noise_of(odd) == noise_of(values)
    assert noise_of([1e308, -1e308] * 8) is None, "beyond any float"


@pytest.mark.parametrize("values", [[0.5] * 12, [n / 8 for n in range(12)]])
def test_a_constant_and_a_straight_line_have_none(values: list[float]) -> None:
    assert noise_of(values) == 0


def ranked(*pairs: tuple[int, float], metric: str = "eval_loss") -> list[Checkpoint]:
    return [make_checkpoint(n, step, {metric: value}) for n, (step, value) in enumerate(pairs, start=1)]


def noisy(difference: float, count: int = 9) -> Sequence[float]:
    """A course whose neighbours differ by chance by so much: up, down, up."""
    amplitude = difference / math.sqrt(2) * 0.6745 * math.sqrt(6) / 4
    return [0.5 + amplitude * (-1) ** n for n in range(count)]


def test_a_lead_within_the_noise_is_a_tie_and_is_said() -> None:
    sure = certainty_of(noisy(0.011), ranked((400, 0.41), (300, 0.412), (500, 0.42), (100, 0.9)), LOSS)
    assert sure is not None
    assert sure.difference == pytest.approx(0.011)
    assert (sure.step, sure.ties) == (400, (300, 500))
    assert sure.describe().startswith(
        "checkpoint-400 leads by 0.002; evaluations next to each other differ by 0.011: a tie with 300 and 500"
    )


def test_a_lead_beyond_it_is_clear() -> None:
    sure = certainty_of(noisy(0.011), ranked((400, 0.41), (300, 0.46)), LOSS)
    assert sure is not None and sure.ties == ()
    assert sure.describe() == (
        "checkpoint-400 leads by 0.05; evaluations next to each other differ by 0.011: clear of the others"
    )


def test_higher_is_better_and_thinned_ones_go_by_their_names() -> None:
    accuracy = Metric("accuracy", "max")
    best = make_checkpoint(2, 200, {"accuracy": 0.92}, kind=Kind.WEIGHTS)
    others = ranked((100, 0.915), (300, 0.5), metric="accuracy")
    sure = certainty_of(noisy(0.02), [best, *others], accuracy)
    assert sure is not None and sure.ties == (100,)
    assert sure.describe().startswith("weights-200 leads by 0.005; ")


def test_evaluations_of_what_is_gone_count_beside() -> None:
    values = noisy(0.011, 12)
    sure = certainty_of(values, ranked((400, min(values))), LOSS)
    assert sure is not None
    assert (sure.lead, sure.evaluations, sure.tied) == (None, 12, 12)
    assert sure.describe().startswith("checkpoint-400 is the only one; ")
    assert sure.describe().endswith("; 11 of 11 other evaluations are as good")


def test_many_ties_are_counted_and_json_says_all() -> None:
    sure = certainty_of(noisy(1.0), ranked(*((100 * n, 0.5 + n / 1000) for n in range(1, 10))), LOSS)
    assert sure is not None
    assert "a tie with 200, 300, 400, 500, 600 and 3 more" in sure.describe()
    plain = sure.to_json()
    assert plain["ties"] == [200, 300, 400, 500, 600, 700, 800, 900]
    assert plain["text"] == sure.describe()


def test_nothing_ranked_or_too_few_is_none() -> None:
    assert certainty_of(noisy(0.1), [], LOSS) is None
    assert certainty_of(noisy(0.1, 7), ranked((1, 0.5)), LOSS) is None
    assert certainty_of(noisy(0.1), ranked((1, math.inf)), LOSS) is None


def test_the_true_best_is_among_the_ties() -> None:
    """The lowest of 50 values is the true best in one of six cases; what is said holds in nine of ten."""
    random_ = random.Random(5)
    count, lowest, among = 50, 0, 0
    truth = min(range(count), key=lambda n: SHAPES["u"](n / count))
    for _ in range(300):
        values = curve("u", count, random_)
        order = sorted(range(count), key=lambda n: values[n])
        sure = certainty_of(values, ranked(*((n + 1, values[n]) for n in order)), LOSS)
        assert sure is not None
        lowest += order[0] == truth
        among += truth + 1 in (sure.step, *sure.ties)
    assert lowest < 0.3 * 300
    assert among > 0.85 * 300
