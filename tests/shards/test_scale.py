"""What a save costs at any number of ranks, from counts at two and four; `docs/scale.md` says the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from keepstep.units import format_size
from tests.shards.counted import AGREED, BEHIND, TENSORS, counted

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]
PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
SAVED = 3 * 291
"""Tensors of one save of a Llama of 7B: its weights, and two moments of each."""


@dataclass(frozen=True)
class Costs:
    """Bytes for a tensor: of the plan and the results that each rank sends to rank 0, of the plan that it gets back, of
    the metadata for a chunk and for the tensor itself.
    """

    plan: float
    result: float
    scattered: float
    chunk: float
    name: float

    def row(self, ranks: int) -> str:
        """A row of the page, for a training that saves a model and an optimizer."""
        others = ranks - 1
        metadata = round(SAVED * (self.chunk * ranks + self.name))
        columns = [
            f"{ranks:,}", f"{2 * 4 * others:,}", format_size(round(SAVED * (self.plan + self.result) * others)),
            format_size(round(SAVED * self.scattered * others)), format_size(metadata), format_size(metadata * others),
            f"{2 * (ranks + 1):,}", f"{2 * (ranks + 1):,}",
        ]  # fmt: skip
        return f"| {' | '.join(columns)} |"


def test_the_page_says_what_was_counted(tmp_path: Path) -> None:
    found = {ranks: counted(tmp_path / str(ranks), ranks) for ranks in (2, 4)}
    for ranks, each in found.items():
        first, *others = each
        assert first["calls"] == {"gather_object": 2, "scatter_object_list": 1, "broadcast_object_list": 1}
        assert all(one["calls"] == first["calls"] for one in others)
        # Each rank makes its file and asks for the directory; rank 0 makes the metadata, and renames it.
        assert first["done"] == {"mkdir": 1, "created": 2, "rename": 1}
        assert all(one["done"] == {"mkdir": 1, "created": 1} for one in others)
        # Copied by the engine: planned once like any save, then nothing is said; the same files, none is renamed.
        assert all(one["planned"]["calls"] == first["calls"] for one in each)
        assert all(one["remembered"]["calls"] == {} for one in each)
        assert first["remembered"]["done"]["created"] == 2 and "rename" not in first["remembered"]["done"]
        assert all(one["remembered"]["done"]["created"] == 1 for one in others)
        metadata = tmp_path / str(ranks) / "saved" / ".metadata"
        assert metadata.stat().st_size == _given(first, "broadcast_object_list.1")
    two, four = found[2][0], found[4][0]
    for name in ("gather_object.1", "gather_object.2"):
        assert {_given(one, name) for each in found.values() for one in each} == {_given(two, name)}, name
    assert _given(four, "scatter_object_list.1") == 2 * _given(two, "scatter_object_list.1")
    small, large = (_given(one, "broadcast_object_list.1") for one in (two, four))
    chunk = (large - small) / 2 / TENSORS
    costs = Costs(
        plan=_given(two, "gather_object.1") / TENSORS,
        result=_given(two, "gather_object.2") / TENSORS,
        scattered=_given(two, "scatter_object_list.1") / 2 / TENSORS,
        chunk=chunk,
        name=small / TENSORS - 2 * chunk,
    )
    page = PAGE.read_text()
    for ranks in (8, 64, 1024):
        _alike(costs.row(ranks), next(line for line in page.splitlines() if line.startswith(f"| {ranks:,} |")))


def test_the_page_says_what_keepstep_sends() -> None:
    agreed, page = sum(AGREED.values()) + sum(BEHIND.values()), PAGE.read_text()
    for ranks in (8, 64, 1024):
        planned, remembered = ((2 * 4 + agreed) * (ranks - 1), agreed * (ranks - 1))
        assert f"| {ranks:,} | {planned:,} | {remembered:,} |" in page


def _given(one: dict[str, dict[str, int]], name: str) -> int:
    return one["bytes"][name]


def _alike(found: str, said: str) -> None:
    """Equal but for a tenth of each number: another torch has other records."""
    one, other = ([float(n.replace(",", "")) for n in re.findall(r"[\d,.]+", row)] for row in (found, said))
    assert one == pytest.approx(other, rel=0.1), (found, said)
    assert re.sub(r"[\d,.]+", "", found) == re.sub(r"[\d,.]+", "", said), (found, said)
