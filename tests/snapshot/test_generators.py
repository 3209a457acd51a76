"""The states of single generators as JSON, and where generators are found."""

from __future__ import annotations

import functools
import json
import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from keepstep.snapshot import generators, random_state
from keepstep.snapshot.finding import MOST_ITEMS, find, walk

MAKERS = {
    "random": lambda: random.Random(1),
    "torch": lambda: torch.Generator().manual_seed(1),
    "pcg64": lambda: np.random.default_rng(1),
    "pcg64dxsm": lambda: np.random.Generator(np.random.PCG64DXSM(1)),
    "mt19937": lambda: np.random.Generator(np.random.MT19937(1)),
    "philox": lambda: np.random.Generator(np.random.Philox(1)),
    "sfc64": lambda: np.random.Generator(np.random.SFC64(1)),
    "legacy": lambda: np.random.RandomState(1),
}
module_wide = np.random.default_rng(7)


def draws(generator: Any) -> list[float]:
    """A few numbers, of two kinds where there are two."""
    if isinstance(generator, torch.Generator):
        return torch.rand(5, generator=generator).tolist()
    if isinstance(generator, random.Random):
        return [generator.random(), generator.gauss(0, 1)]
    more = [int(generator.integers(9))] if isinstance(generator, np.random.Generator) else []
    return [float(generator.random()), float(generator.normal()), *more]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_state_goes_through_json_into_another_generator(make: Any) -> None:
    one = make()
    draws(one)
    state = json.loads(json.dumps(generators.state_of(one)))
    expected = [draws(one) for _ in range(3)]
    other = make()
    generators.put_state(other, state)
    assert [draws(other) for _ in range(3)] == expected
    made = generators.made_of(state)
    assert type(made) is type(one) and [draws(made) for _ in range(3)] == expected


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_drawn_inside_is_not_missing_outside(make: Any) -> None:
    one, other = make(), make()
    with random_state.untouched([one]):
        draws(one)
        random_state.seed_all(0, [one])
        first = draws(one)
        random_state.seed_all(0, [one])
        assert draws(one) == first
    assert draws(one) == draws(other)


def test_a_generator_without_a_state_is_known_as_one() -> None:
    system = random.SystemRandom()
    assert generators.is_generator(system) and not generators.has_state(system)
    assert random_state.states({"system": system}) == {}


def test_global_generators_are_nobodys_own() -> None:
    functions = [random.random, np.random.rand, np.random.mtrand._rand, torch.default_generator, random.shuffle]
    assert find({"functions": functions}).generators == {}


class Slotted:
    __slots__ = ("empty", "rng")

    def __init__(self, rng: Any) -> None:
        self.rng = rng


class Hostile:
    """Whoever reads a property, compares or iterates calls the user's code."""

    def __init__(self, rng: Any) -> None:
        self.rng = rng

    @property
    def trap(self) -> Any:
        raise AssertionError("a property was called")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("it was compared")

    def __iter__(self) -> Any:
        raise AssertionError("it was iterated")

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Parted:
    inner: dict[str, Any] = field(default_factory=dict[str, Any])


class OfItsClass:
    rng = np.random.default_rng(3)

    def draw(self) -> float:
        return module_wide.random()


def closing_over(rng: Any) -> Any:
    def draw() -> float:
        return rng.random()

    return draw


RNG = np.random.default_rng(2)
SHAPES = {
    "collator": (RNG, "collator"),
    "an attribute": (SimpleNamespace(rng=RNG), "collator.rng"),
    "a slot": (Slotted(RNG), "collator.rng"),
    "an object with traps": (Hostile(RNG), "collator.rng"),
    "a dataclass": (Parted({"mask": [0, (1, RNG)]}), "collator.inner['mask'][1][1]"),
    "a closure": (closing_over(RNG), "collator.<closure>.rng"),
    "a partial": (functools.partial(dict, start=RNG), "collator.<arguments>.start"),
    "a default": (lambda rng=RNG: rng, "collator.<defaults>[0]"),
    "a bound method": (Slotted(RNG).__init__, "collator.<self>.rng"),
    "a method of its own": (RNG.random, "collator.<self>"),
    "a face of a bit generator": ([RNG.bit_generator], "collator[0]"),
}


@pytest.mark.parametrize(("value", "path"), SHAPES.values(), ids=SHAPES)
def test_a_generator_is_found_by_its_path(value: Any, path: str) -> None:
    found = find({"collator": value}).generators
    assert list(found) == [path] and generators.source_of(found[path]) is RNG.bit_generator


def test_a_class_and_the_globals_of_its_functions_are_looked_into() -> None:
    found = find({"collator": OfItsClass()})
    assert set(found.generators) == {"collator.rng", f"{__name__}.module_wide"}
    assert found.generators[f"{__name__}.module_wide"] is module_wide


def test_one_that_two_paths_lead_to_is_one() -> None:
    rng = np.random.default_rng(5)
    found = find({"a": [rng], "b": {"same": rng, "face": np.random.Generator(rng.bit_generator)}})
    assert list(found.generators) == ["a[0]"]
    assert found.names == {"a[0]": "a[0]", "b['same']": "a[0]", "b['face']": "a[0]"}


def test_circles_tensors_and_rows_of_data_are_not_walked() -> None:
    circle: list[Any] = []
    circle.append(circle)
    rows = [{"input_ids": [1]}] * (MOST_ITEMS * 4) + [random.Random()]
    assert find({"circle": circle, "rows": rows, "tensor": torch.zeros(3)}).generators == {}


def test_a_test_runner_that_a_callback_leads_to_is_not_walked(request: pytest.FixtureRequest) -> None:
    holder = SimpleNamespace(fixture=request, own=RNG)
    assert len(list(walk({"callback": holder}))) < 10
    assert list(find({"callback": holder}).generators) == ["callback.own"]


def test_where_a_wanted_one_is_still_to_be_made_is_known() -> None:
    owner = SimpleNamespace(generator=None)
    found = find({"collator": {"masks": owner}}, ["collator['masks'].generator"])
    assert found.vacant == {"collator['masks'].generator": (owner, "generator")}


def test_a_module_is_looked_into_by_what_lies_on_it() -> None:
    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rng = torch.Generator()
            self.inner = torch.nn.Sequential(torch.nn.Linear(2, 2))

    model = Noisy()
    assert find({"model": model}).generators == {"model.rng": model.rng}


def test_a_note_tells_whether_anything_was_drawn() -> None:
    own = {"one": np.random.default_rng(0)}
    before = random_state.note(own)
    assert random_state.note(own).equals(before)
    for draw in (own["one"].random, random.random, np.random.rand, lambda: torch.rand(1)):
        with random_state.untouched(own.values()):
            draw()
            assert not random_state.note(own).equals(before)
        assert random_state.note(own).equals(before)
