"""Our torch files are byte for byte those of torch.save, and everything that reads those reads ours."""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from keepstep.formats.layout import UnsupportedTensorError
from keepstep.formats.torch_file import plan_torch
from keepstep.formats.torch_zip import TorchZip
from tests.formats.files import adamw_state, same, stock_torch_bytes, storages_of, torch_bytes, write_torch

BASE = torch.arange(100, dtype=torch.float32).reshape(10, 10)
TENSORS = st.builds(
    lambda dtype, shape: torch.ones(shape, dtype=dtype),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8]),
    st.lists(st.integers(0, 6), max_size=3),
)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), TENSORS)
NESTED = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.integers(), st.text(max_size=5)), inner, max_size=4),
    ),
    max_leaves=20,
)
OBJECTS = {
    "adamw": adamw_state(),
    "nothing": {},
    "scalar": torch.tensor(3),
    "empty tensors": {"a": torch.empty(0), "b": torch.ones(2), "c": torch.empty(0)},
    "only empty": [torch.empty(0)],
    "shared and views": {"rows": BASE[2:5], "turned": BASE.t(), "whole": BASE, "again": BASE},
    "parameter": torch.nn.Parameter(torch.rand(3)),
    "sparse": torch.eye(3).to_sparse(),
    "conjugate": torch.rand(3, dtype=torch.complex64).conj(),
    "ordered": OrderedDict(weight=torch.rand(2, 2)),
    "a storage": torch.rand(3).untyped_storage(),
    "meta": torch.empty(3, device="meta"),
}


@pytest.mark.filterwarnings("ignore:Serializing tensors on the meta device")
@pytest.mark.parametrize("obj", OBJECTS.values(), ids=OBJECTS)
def test_byte_identical_to_torch_save(obj: object) -> None:
    assert torch_bytes(plan_torch(obj)) == stock_torch_bytes(obj)


@given(NESTED)
@settings(max_examples=100)
def test_any_nesting_is_byte_identical(obj: object) -> None:
    assert torch_bytes(plan_torch(obj)) == stock_torch_bytes(obj)


def test_stock_readers_read_it(tmp_path: Path) -> None:
    path, state = tmp_path / "optimizer.pt", adamw_state(numel=100_000)
    write_torch(path, state)
    assert path.read_bytes() == stock_torch_bytes(state)
    assert same(torch.load(path, weights_only=True), state)
    assert same(torch.load(path, weights_only=True, mmap=True), state)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_beyond_four_gibibytes(tmp_path: Path) -> None:
    plan = plan_torch([torch.empty(2**32 + 1000, dtype=torch.uint8), torch.arange(5), torch.ones(3)])
    checksums = {"data/0": 11, "data/1": 12, "data/2": 13}
    with (tmp_path / "f").open("wb") as file:  # all but the big storage, which stays a hole
        small = storages_of(plan)
        for piece in plan.layout.pieces:
            file.seek(piece.offset)
            if piece.source is None:
                file.write(piece.literal or (piece.late(checksums) if piece.late else b""))
            elif piece.source != "data/0":
                file.write(small[piece.source])
    loaded = torch.load(tmp_path / "f", weights_only=True, mmap=True)
    assert [len(tensor) for tensor in loaded] == [2**32 + 1000, 5, 3]
    assert loaded[1].tolist() == [0, 1, 2, 3, 4]
    with zipfile.ZipFile(tmp_path / "f") as archive:
        found = {info.filename: info.CRC for info in archive.infolist()}
    assert [found[f"archive/data/{key}"] for key in range(3)] == [11, 12, 13]


def test_testzip_would_notice_a_wrong_checksum(tmp_path: Path) -> None:
    path = tmp_path / "optimizer.pt"
    plan = plan_torch(adamw_state())
    assert plan.layout.pieces[-1].late is not None
    wrong = dict.fromkeys(plan.storages, 7)
    content = torch_bytes(plan)
    tail = plan.layout.pieces[-1].late(wrong)
    path.write_bytes(content[: -len(tail)] + tail)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() == "archive/data/0"


def test_shared_storage_is_written_once_and_shared_after_loading(tmp_path: Path) -> None:
    write_torch(tmp_path / "f", {"whole": BASE, "rows": BASE[2:5]})
    loaded = torch.load(tmp_path / "f", weights_only=True)
    loaded["whole"][2, 0] = -1
    assert loaded["rows"][0, 0] == -1
    assert len(plan_torch({"whole": BASE, "rows": BASE[2:5]}).storages) == 1


def test_fake_tensors(tmp_path: Path) -> None:
    state = adamw_state()
    write_torch(tmp_path / "f", state)
    with FakeTensorMode():
        shapes = torch.load(tmp_path / "f", weights_only=True)
        assert shapes["state"][3]["exp_avg"].shape == state["state"][3]["exp_avg"].shape
        with pytest.raises(UnsupportedTensorError, match=r"without the data|meta"):
            plan_torch(shapes)


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_are_refused() -> None:
    with pytest.raises(UnsupportedTensorError, match="without the data"):
        plan_torch(torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8))


@pytest.mark.parametrize(
    "parts",
    [
        [b"", b""],
        [1, b"x"],
        [b"PK", 3, b"nothing like a descriptor"],
        [b"PK\x05\x06" + bytes(18), 4, b"PK\x05\x06" + bytes(18)],
    ],
)
def test_an_unknown_container_is_an_error(parts: list[bytes | int]) -> None:
    with pytest.raises((ValueError, IndexError, struct.error)):
        TorchZip(parts)


def test_a_changed_writer_is_refused_so_that_the_caller_can_fall_back(monkeypatch) -> None:
    def save(obj: object, sink, pickle_module=None) -> None:
        sink.write(b"a new format")
        sink.flush()

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(UnsupportedTensorError, match="unknown layout"):
        plan_torch({"a": torch.ones(3)})
