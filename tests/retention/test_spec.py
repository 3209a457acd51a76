"""The text form of a policy: read, written, refused."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.errors import PolicyError
from keepstep.retention import (
    All,
    Best,
    Context,
    Daily,
    Every,
    Hourly,
    Latest,
    Metric,
    Pending,
    Pinned,
    Rule,
    Within,
    format_spec,
    parse,
    rule_table,
)
from keepstep.retention import rules as definitions
from keepstep.retention.rules import Seconds, rule_classes

COUNTS = st.integers(1, 10**9)
RULES: list[st.SearchStrategy[Rule]] = [
    st.builds(Best, COUNTS, st.booleans()),
    st.builds(Latest, COUNTS),
    st.builds(Every, COUNTS),
    st.builds(Pending, COUNTS),
    st.builds(Within, COUNTS),
    st.builds(Hourly, COUNTS),
    st.builds(Daily, COUNTS),
    st.builds(Pinned),
    st.builds(All),
]
RULE_TUPLES = st.lists(st.one_of(RULES), min_size=1, unique_by=type).map(tuple)


def test_every_rule_is_read() -> None:
    spec = "best:3,pending:6h,latest:2,every:1000,within:6h,hourly:12,daily:7,pinned,all"
    rules = (Best(3), Pending(21600), Latest(2), Every(1000), Within(21600), Hourly(12), Daily(7), Pinned(), All())
    assert parse(spec) == rules
    assert format_spec(rules) == spec
    assert {type(rule) for rule in rules} == set(rule_classes().values())


@given(RULE_TUPLES)
def test_what_is_written_is_read_back(rules: tuple[Rule, ...]) -> None:
    assert parse(format_spec(rules)) == rules


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (" Best : 3 ", Best(3)),
        ("BEST:5", Best(5)),
        ("latest:007", Latest(7)),
        ("within:90s", Within(90)),
        ("within:15m", Within(900)),
        ("within:24 h", Within(86400)),
        ("within:2d", Within(172800)),
        ("within:1w", Within(604800)),
    ],
)
def test_spelling_is_lenient(spec: str, rule: Rule) -> None:
    assert parse(spec) == (rule,)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("best:3,,latest:1", "missing between the commas"),
        ("best:3,", "missing between the commas"),
        ("bset:3", "'bset'"),
        ("3", "'3'"),
        ("best", "number is missing (k)"),
        ("best:", "''"),
        ("best:x", "'x'"),
        ("best:0", "'0'"),
        ("best:-1", "'-1'"),
        ("best:2.5", "'2.5'"),
        ("best:٣", "'٣'"),
        ("latest:" + "9" * 5000, "no whole number"),
        ("best:full", "'full'"),
        ("best:3:ful", "'ful' is too much"),
        ("latest:2:3", "'3' is too much"),
        ("all:1", "'1' is too much"),
        ("within:6", "'6' is no duration"),
        ("within:h", "'h' is no duration"),
        ("within:0h", "'0h' is no duration"),
        ("within:1y", "'1y' is no duration"),
        ("best:3,latest:1,best:5", "'best' stands twice"),
    ],
)
def test_what_cannot_be_read_is_named(spec: str, words: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse(spec)
    assert words in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(("typo", "near"), [("bset", "best"), ("last", "latest"), ("hourli", "hourly")])
def test_an_unknown_word_gets_a_near_miss_and_the_list(typo: str, near: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse(f"latest:1,{typo}:3")
    assert f"Did you mean {near!r}?" in error.value.hint
    assert all(example in error.value.hint for example, _ in rule_table())


def test_a_word_like_nothing_gets_no_guess() -> None:
    with pytest.raises(PolicyError) as error:
        parse("xyz:3")
    assert "Did you mean" not in error.value.hint


@given(st.text("abestlwihn:,0123456789 smhdw", max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        rules = parse(text)
    except PolicyError:
        return
    assert parse(format_spec(rules)) == rules


def test_examples_of_the_table_are_specs_of_their_own_rule() -> None:
    for example, meaning in rule_table():
        (rule,) = parse(example)
        assert rule.spec() == example
        flags = [word for word in type(rule).flags if getattr(rule, word)]
        assert meaning == (type(rule).flags[flags[0]] if flags else type(rule).meaning())


def test_a_flag_follows_the_number() -> None:
    assert parse("Best:3:FULL") == (Best(3, full=True),)
    assert format_spec(parse("latest:2, best:3 : full")) == "latest:2,best:3:full"
    for wrong in ("best:full", "best:full:3", "best:3:full:full", "best:3:whole", "latest:2:full", "best:3:full:4"):
        with pytest.raises(PolicyError):
            parse(wrong)


@pytest.fixture
def first_rule() -> Iterator[None]:
    """A rule that exists for one test."""

    class First(Rule, frozen=True):  # pyright: ignore[reportUnusedClass]
        """The first n of the run, once older than the time given."""

        n: int
        age: Seconds
        example: ClassVar[str] = "first:2:1h"

        def keeps(self, context: Context) -> Mapping[int, str]:
            return {}

        def phrase(self, metric: Metric | None) -> str:
            return "the first"

        def missed(self) -> str:
            return "not the first"

    yield
    del First
    definitions._arguments_of.cache_clear()
    gc.collect()


@pytest.mark.usefixtures("first_rule")
def test_one_class_is_a_whole_rule() -> None:
    assert format_spec(parse("first:3:2d,all")) == "first:3:2d,all"
    assert ("first:2:1h", "The first n of the run, once older than the time given.") in rule_table()
    with pytest.raises(PolicyError, match="missing \\(age\\)"):
        parse("first:3")
