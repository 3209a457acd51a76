"""What is wrong with a file is told by its structure: cut, emptied, with another byte; a whole one never."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.stock import flaw_of
from tests.stock.written import safetensors, torch_file

FILES: dict[str, Callable[[Path], object]] = {
    "model.safetensors": safetensors,
    "optimizer.pt": torch_file,
    "config.json": lambda path: path.write_text(json.dumps({"model_type": "llama", "layers": list(range(20))})),
    "random_states_0.pkl": lambda path: path.write_bytes(pickle.dumps({"seed": list(range(50))})),
}


@pytest.fixture(params=FILES)
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    FILES[request.param](path)
    return path


def test_a_whole_file_has_no_flaw(whole: Path) -> None:
    assert flaw_of(whole) == flaw_of(whole, deep=True) == ""


def test_a_file_that_is_cut_anywhere_has_one(whole: Path) -> None:
    data = whole.read_bytes()
    missed = []
    for length in range(len(data)):
        whole.write_bytes(data[:length])
        # A pickle of numbers may end in a full stop before its end.
        if not flaw_of(whole) and not (whole.suffix == ".pkl" and data[length - 1 : length] == b"."):
            missed.append(length)
    assert missed == []


@pytest.mark.parametrize("whole", [name for name in FILES if name != "model.safetensors"], indirect=True)
def test_zeros_after_a_cut_are_found_in_what_has_an_end(whole: Path) -> None:
    """Numbers of tensors may be zeros: there nothing tells."""
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert flaw_of(whole)


def test_another_byte_in_an_archive_is_found_by_its_checksum_alone(tmp_path: Path) -> None:
    path = tmp_path / "optimizer.pt"
    torch_file(path)
    data = bytearray(path.read_bytes())
    data[data.index(bytes(range(100, 140))) + 7] ^= 1
    path.write_bytes(data)
    assert flaw_of(path) == ""
    read: list[int] = []
    assert "checksum" in flaw_of(path, deep=True, on_bytes=read.append)
    assert sum(read) > 0


def test_a_header_that_does_not_fit_its_file_is_a_flaw(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors(path)
    path.write_bytes(path.read_bytes() + b"more")
    assert "its header says" in flaw_of(path)
    header = json.dumps({"one": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    assert "hole" in flaw_of(path)
    header = json.dumps({"one": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "shape" in flaw_of(path)


@pytest.mark.parametrize("header", [b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b"\xff", b"[" * 5000])
def test_a_hostile_header_is_a_flaw_and_no_error(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert flaw_of(path)


def test_what_promises_no_structure_is_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "merges.txt"
    path.write_bytes(b"")
    assert flaw_of(path) == ""
