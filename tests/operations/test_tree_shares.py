"""Who may take what of a tree's budget, and who gives up for whom: the rules, and laws that hold for any tree."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from keepstep.operations.tree import Member, in_order, shares, way_for
from tests.checkpoints import EPOCH


def member(name: str, takes: int, least: int, *, trains: bool = False, shared: bool = True, hours: float = 0) -> Member:
    return Member(Path(name), takes, least, trains, shared, EPOCH + timedelta(hours=hours))


OLD = member("old", 50, 20, hours=1)
NEW = member("new", 40, 30, shared=False, hours=2)
TRAINING = member("training", 60, 25, trains=True, hours=0)
STUBBORN = member("stubborn", 10, 10, trains=True, shared=False, hours=3)
ALL = (STUBBORN, TRAINING, NEW, OLD)
MEMBERS = st.lists(
    st.builds(
        lambda number, least, surplus, trains, shared, hours: member(
            f"run-{number}", least + surplus, least, trains=trains, shared=shared, hours=hours
        ),
        st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 50), st.booleans(), st.booleans(),
        st.integers(0, 5),
    ),
    max_size=8,
    unique_by=lambda one: one.path,
)  # fmt: skip


def gives(budget: int, reserve: int = 0) -> dict[str, int]:
    return {str(share.member.path): share.gives for share in shares(ALL, budget, reserve) if share.gives}


def test_runs_at_rest_give_up_first_and_the_one_that_saved_last_longest_ago_before_the_others() -> None:
    assert [str(one.path) for one in in_order(ALL)] == ["old", "new", "training", "stubborn"]
    assert gives(160) == {}
    assert gives(150) == {"old": 10}
    assert gives(125) == {"old": 30, "new": 5}
    assert gives(110) == {"old": 30, "new": 10, "training": 10}


def test_nobody_gives_up_what_it_never_does_whatever_the_budget() -> None:
    assert gives(1) == {"old": 30, "new": 10, "training": 35}


def test_a_reserve_is_free_after_a_prune() -> None:
    assert gives(160, reserve=10) == gives(150)


def test_what_each_may_take() -> None:
    may = {str(share.member.path): share.may_take for share in shares(ALL, 150, 0)}
    # One that trains: the budget less what others keep, those that share no more than what they never give up.
    assert may == {"old": 40, "new": 40, "training": 150 - 20 - 40 - 10, "stubborn": 150 - 20 - 40 - 25}


def test_a_training_takes_of_those_that_share_and_rest_then_of_itself() -> None:
    way = way_for(20, 5, ALL)
    assert (way.now, way.from_others, way.from_itself) == (True, ((Path("old"), 20),), 0)
    way = way_for(33, 5, ALL)
    assert (way.now, way.from_others, way.from_itself) == (True, ((Path("old"), 30),), 3)


def test_where_that_is_not_enough_nobody_gives_and_those_that_train_and_share_are_asked() -> None:
    way = way_for(50, 5, ALL)
    assert (way.now, way.from_others, way.from_itself) == (False, (), 0)
    assert (way.asked, way.lacking) == ((Path("training"),), 0)
    assert way_for(100, 5, ALL).lacking == 30
    alone = way_for(100, 5, [NEW, STUBBORN])
    assert (alone.now, alone.asked, alone.lacking) == (False, (), 95)


@given(MEMBERS, st.integers(1, 400), st.integers(0, 100))
def test_laws_of_shares(members: list[Member], budget: int, reserve: int) -> None:
    found = shares(members, budget, reserve)
    assert [share.member for share in found] == in_order(members)
    over = max(sum(one.takes for one in members) - (budget - reserve), 0)
    given_up = sum(share.gives for share in found)
    assert given_up == min(over, sum(one.surplus for one in members))
    assert all(0 <= share.gives <= share.member.surplus and share.may_take >= share.member.least for share in found)
    rest = [share.member.surplus - share.gives for share in found]
    first = next((place for place, left in enumerate(rest) if left), len(rest))
    assert not any(share.gives for share in found[first + 1 :]), "one gives after the other"
    trains = [share.member.trains for share in found if share.gives]
    assert trains == sorted(trains)


@given(MEMBERS, st.integers(1, 400), st.integers(0, 100))
def test_laws_of_ways(members: list[Member], short: int, spare: int) -> None:
    way = way_for(short, spare, members)
    by_path = {one.path: one for one in members}
    assert all(by_path[path].shared and not by_path[path].trains for path, _ in way.from_others)
    assert all(0 < size <= by_path[path].surplus for path, size in way.from_others)
    assert all(by_path[path].shared and by_path[path].trains for path in way.asked)
    found = sum(size for _, size in way.from_others) + way.from_itself
    assert found == (short if way.now else 0)
    assert way.from_itself <= spare
