"""A growing file is read once, whatever is appended to it, cut off it, or put in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from keepstep.run import Tail
from keepstep.run.tail import MARK, PIECE
from tests.run.counting import CountingStore

LINE = b"x" * 99


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path)


def taken(tail: Tail) -> tuple[bool, list[bytes]]:
    added = tail.read()
    return added.anew, [line for lines in added.lines for line in lines]


def test_a_second_read_takes_the_added_bytes_alone(store: CountingStore) -> None:
    tail = Tail(store, "log")
    assert taken(tail) == (False, [])
    store.append("log", (LINE + b"\n") * 1000, durable=False)
    assert taken(tail) == (False, [LINE] * 1000)
    store.bytes_read = 0
    assert taken(tail) == (False, [])
    assert store.bytes_read == 0
    store.append("log", b"new\n", durable=False)
    assert taken(tail) == (False, [b"new"])
    assert store.bytes_read == len(b"new\n") + MARK


def test_a_line_is_taken_when_it_is_terminated_and_once(store: CountingStore) -> None:
    tail = Tail(store, "log")
    for byte in b"one\ntwo\n":
        store.append("log", bytes([byte]), durable=False)
        expected = {ord("\n"): 1}.get(byte, 0)
        assert len(taken(tail)[1]) == expected
    assert taken(tail) == (False, [])


def test_lines_longer_than_a_piece_stay_whole(store: CountingStore) -> None:
    tail = Tail(store, "log")
    long = b"y" * (2 * PIECE + 7)
    store.append("log", b"a\n" + long, durable=False)
    assert taken(tail) == (False, [b"a"])
    store.append("log", b"\nb\n", durable=False)
    assert taken(tail) == (False, [long, b"b"])


@pytest.mark.parametrize("length", [0, 1, 3, 8, 20], ids="of {} bytes".format)
def test_another_file_is_read_from_its_start(store: CountingStore, length: int) -> None:
    tail = Tail(store, "log")
    store.append("log", b"one\ntwo\n", durable=False)
    taken(tail)
    lines = [b"%d" % (number % 10) for number in range(length // 2)]
    store.replace("log", b"".join(line + b"\n" for line in lines))
    assert taken(tail) == (True, lines)


def test_a_replaced_file_is_another_one_though_its_last_bytes_are_the_same(store: CountingStore) -> None:
    tail = Tail(store, "log")
    store.append("log", b"old\n" + (LINE + b"\n") * 10, durable=False)
    taken(tail)
    store.replace("log", b"new\n" + (LINE + b"\n") * 10)
    assert taken(tail) == (True, [b"new", *[LINE] * 10])


@pytest.mark.parametrize("length", [3, 8, 20], ids="of {} bytes".format)
def test_a_file_that_was_cut_and_grew_again_is_read_from_its_start(store: CountingStore, length: int) -> None:
    tail = Tail(store, "log")
    store.append("log", b"one\ntwo\n", durable=False)
    taken(tail)
    with store.local_path("log").open("wb") as file:
        file.write(b"z" * length + b"\n")
    assert taken(tail) == (True, [b"z" * length])


def test_a_file_that_is_gone_and_comes_again_is_read_from_its_start(store: CountingStore) -> None:
    tail = Tail(store, "log")
    store.append("log", b"one\n", durable=False)
    taken(tail)
    store.delete("log")
    assert taken(tail) == (True, [])
    assert taken(tail) == (False, [])
    store.append("log", b"one\n", durable=False)
    assert taken(tail) == (False, [b"one"])
