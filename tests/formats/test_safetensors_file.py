"""Our safetensors files are byte for byte those of the installed library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from keepstep.formats.layout import UnsupportedTensorError
from keepstep.formats.safetensors_file import STOCK_METADATA, TensorSpec, plan_safetensors, read_header, stock_dtypes
from keepstep.formats.tensors import tensor_bytes
from tests.formats.files import assemble, write_safetensors

NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=12),
    st.sampled_from(
        ["h.10.weight", "h.2.weight", "é", "e\u0301", "\U0001f600", "a\x00b", '"', "\\", "\u2028", "\x7f", "A", "a"]
    ),
).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 5), max_size=4)


def ours(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> bytes:
    layout = plan_safetensors({name: TensorSpec.of(tensor) for name, tensor in tensors.items()}, metadata)
    return assemble(layout, {name: tensor_bytes(tensor) for name, tensor in tensors.items()})


def filled(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    numel = torch.empty(shape, dtype=torch.uint8).numel()
    size = numel * torch.empty(0, dtype=dtype).element_size()
    top = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, top, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return raw.view(dtype).reshape(shape)


@given(
    entries=st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(stock_dtypes(), key=str)), SHAPES), max_size=12),
    metadata=st.sampled_from([None, {}, {"format": "pt"}, {'ü"\n': "\x01\\"}]),
)
@settings(max_examples=150)
def test_byte_identical_to_the_library(entries, metadata: dict[str, str] | None) -> None:
    assume(entries or metadata != {})  # there the library itself writes broken JSON
    tensors = {name: filled(dtype, shape, seed) for seed, (name, (dtype, shape)) in enumerate(entries.items())}
    assert ours(tensors, metadata) == save(tensors, metadata)


def test_every_common_dtype_is_known() -> None:
    for name in ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool", "float8_e4m3fn"):
        assert getattr(torch, name) in stock_dtypes()


def test_a_file_on_disk(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(100_003),
        "a": torch.rand(77, 5),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(1.5),
    }
    write_safetensors(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "stock", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "stock").read_bytes()
    assert load_file(tmp_path / "ours")["b"].equal(tensors["b"])


def test_a_transposed_tensor_has_no_bytes_in_order() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        tensor_bytes(torch.rand(3, 4).t())
    with pytest.raises(ValueError, match="contiguous tensor in host memory"):
        tensor_bytes(torch.empty(3, device="meta"))
    with pytest.raises(ValueError, match="conjugation"):
        tensor_bytes(torch.rand(3, dtype=torch.complex64).conj())


def test_a_view_has_only_its_own_bytes() -> None:
    base = torch.arange(10, dtype=torch.int16)
    assert bytes(tensor_bytes(base[3:5])) == b"\x03\x00\x04\x00"


def test_what_stock_stores_differently_is_refused() -> None:
    with pytest.raises(UnsupportedTensorError, match="complex128"):
        plan_safetensors({"a": TensorSpec(torch.complex128, (1,), 16)})
    with pytest.raises(UnsupportedTensorError, match="__metadata__"):
        plan_safetensors({"__metadata__": TensorSpec(torch.float32, (1,), 4)})


def test_the_header_is_read_back() -> None:
    header = read_header(save({"x": torch.zeros(2, 3)}, dict(STOCK_METADATA)))
    assert header == {"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    with pytest.raises(ValueError, match="no JSON object"):
        read_header((2).to_bytes(8, "little") + b"[]")
