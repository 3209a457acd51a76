"""Places of tensors in files, held against what torch reads from them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from keepstep.formats.tensor_places import NoPlaces, TensorPlace, places_in

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool, torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]  # fmt: skip


def some(dtype: torch.dtype) -> torch.Tensor:
    return (torch.arange(12).reshape(3, 4) % 7).to(torch.float32).to(dtype)


def read(place: TensorPlace) -> bytes:
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        return file.read(place.nbytes)


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist()) if tensor.numel() else b""


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_every_dtype_lies_where_it_is_said(tmp_path: Path, name: str) -> None:
    tensors = {str(dtype): some(dtype) for dtype in KINDS} | {"empty": torch.zeros(0, 3), "one": torch.tensor(2.5)}
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)

    places = places_in(path)

    assert places.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert read(places[key]) == raw(tensor), key
        assert places[key].shape == tuple(tensor.shape) and not places[key].flaw


def test_what_torch_nests_has_names_by_the_way_to_it(tmp_path: Path) -> None:
    shared = torch.arange(10.0)
    state: dict[str, Any] = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 2)}},
        "model": OrderedDict(a=torch.nn.Parameter(torch.full((2,), 5.0)), tied=shared[2:5]),
        "list": [torch.zeros(1), "text"],
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }
    path = tmp_path / "optimizer.pt"
    torch.save(state, path)

    places = places_in(path)

    assert set(places) == {"state.0.step", "state.0.exp_avg", "model.a", "model.tied", "list.0", "turned"}
    assert read(places["model.a"]) == raw(torch.full((2,), 5.0))
    assert read(places["model.tied"]) == raw(torch.tensor([2.0, 3.0, 4.0]))
    assert "one behind the other" in places["turned"].flaw


@pytest.mark.parametrize(
    "header",
    [
        "[" * 100_000, "[]", "nothing", '{"a": 1}', '{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]}}',
        '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
        '{"a": {"dtype": "F32", "shape": {}, "data_offsets": "ab"}}',
    ],
)  # fmt: skip
def test_a_header_of_a_strangers_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with pytest.raises(NoPlaces):
        places_in(path)


class _Odd:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return (torch._utils._rebuild_tensor_v2, self.arguments)  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [(), (1, 2, (3,), (1,)), (torch.zeros(2).untyped_storage(), "x", ("y",), (1,))])
def test_what_only_looks_like_a_tensor_is_none(tmp_path: Path, arguments: tuple[Any, ...]) -> None:
    torch.save({"a": _Odd(*arguments), "b": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    places = places_in(tmp_path / "pytorch_model.bin")
    assert read(places["b"]) == raw(torch.ones(2))
    assert places["a"].flaw == "it is no plain tensor"


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1), "trap": _Trap()}, tmp_path / "pytorch_model.bin")
    assert list(places_in(tmp_path / "pytorch_model.bin")) == ["a"]
    assert not Path("sprung").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_that_is_cut_has_no_places(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(NoPlaces, match="cut"):
        places_in(path)
    path.write_bytes(b"")
    with pytest.raises(NoPlaces):
        places_in(path)
