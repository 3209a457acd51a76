"""What is known of a data set before the first step: never more than a sample, and never for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from keepstep.integrations.transformers.resuming.fitness import _are_compared  # noqa: E402
from keepstep.integrations.transformers.setup.fingerprint import (  # noqa: E402
    SAMPLED_ROWS,
    dataset_fingerprint,
    slow_to_read,
)
from keepstep.run import fingerprint_differences  # noqa: E402

ROWS = 10**6


class Rows(torch.utils.data.Dataset[Any]):
    """A million rows, each made when it is asked for, and counted."""

    def __init__(self, seconds: float = 0.0, shift: int = 0) -> None:
        self._seconds, self._shift = seconds, shift
        self.read: list[int] = []

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        self.read.append(index)
        time.sleep(self._seconds)
        return {"input_ids": [index + self._shift] * 8}


class Stream(torch.utils.data.IterableDataset[Any]):
    """Must not be read at all."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("it was read")


def test_a_huge_data_set_is_sampled() -> None:
    data = Rows()
    found = dataset_fingerprint(data, patience=60)
    assert found["rows"] == ROWS and found["digest"] and found["few"] and "sampled" not in found
    assert len(set(data.read)) <= SAMPLED_ROWS + 8
    assert {0, ROWS - 1} <= set(data.read)
    assert list(slow_to_read({"data": found})) == []


def test_a_slow_one_is_read_for_so_long_and_that_is_said() -> None:
    data = Rows(seconds=0.02)
    found = dataset_fingerprint(data, patience=0.2)
    assert found["digest"] is None
    assert 4 <= found["sampled"] == len(set(data.read)) < 20
    (line,) = slow_to_read({"data": found})
    assert (
        line == f"the training data is slow to read: a resume compares {found['sampled']} rows of it, and their number"
    )


def test_where_a_row_takes_longer_than_that_one_is_read() -> None:
    data = Rows(seconds=0.02)
    found = dataset_fingerprint(data, patience=0.001)
    assert (found["digest"], found["few"], found["sampled"]) == (None, None, 1)
    assert data.read == [0, 0]
    assert not _are_compared(found, dataset_fingerprint(Rows(), patience=60))


def test_a_slow_day_and_a_fast_one_are_compared_by_the_few_rows_of_both() -> None:
    slow = dataset_fingerprint(Rows(seconds=0.02), patience=0.2)
    fast, other = (dataset_fingerprint(Rows(shift=shift), patience=60) for shift in (0, 1))
    assert _are_compared(slow, fast) and slow["few"] == fast["few"] != other["few"]
    differs = {d.name for d in fingerprint_differences({"data": slow}, {"data": other})}
    assert {"few", "digest"} <= differs


def test_the_digest_of_a_small_one_is_that_of_all_its_rows() -> None:
    rows = [{"input_ids": [number]} for number in range(6)]
    assert dataset_fingerprint(rows)["digest"] != dataset_fingerprint([*rows[:5], {"input_ids": [9]}])["digest"]
    # Of four rows at most both read the same.
    assert (few := dataset_fingerprint(rows[:3]))["digest"] == few["few"]


def test_a_stream_is_not_read() -> None:
    assert dataset_fingerprint(Stream()) == {"rows": None, "digest": None}
