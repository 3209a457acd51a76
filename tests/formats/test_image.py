"""Tensors over a file's bytes are those that the stock loaders give."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from keepstep.formats.image import ImageFile, is_zip, objects_of, tensors_of
from keepstep.formats.safetensors_file import stock_dtypes
from tests.formats.files import adamw_state, same


def image_of(path: Path) -> memoryview:
    return memoryview(bytearray(path.read_bytes()))


def test_every_dtype_and_shape_of_safetensors(tmp_path: Path) -> None:
    raw = torch.arange(64, dtype=torch.uint8)
    tensors = {f"{index}.{dtype}": raw.clone().view(dtype) for index, dtype in enumerate(stock_dtypes())}
    tensors |= {"empty": torch.empty(0, 3), "scalar": torch.tensor(2.5), "matrix": torch.rand(3, 4)}
    save_file(tensors, tmp_path / "f", metadata={"format": "pt"})
    stock, ours = load_file(tmp_path / "f"), tensors_of(image_of(tmp_path / "f"))
    assert ours.keys() == stock.keys()
    for name, tensor in stock.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(ours[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name
        assert ours[name].untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_tensors_are_the_image_itself(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / "f")
    image = image_of(tmp_path / "f")
    tensors_of(image)["a"][3] = 2.0
    assert tensors_of(image)["a"].tolist() == [1, 1, 1, 2]


def test_a_header_of_odd_length_is_read(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} '
    assert (len(header) + 8) % 4
    data = len(header).to_bytes(8, "little") + header + torch.tensor([1.5, -2.0]).numpy().tobytes()
    assert tensors_of(memoryview(bytearray(data)))["a"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        (100).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        *(
            len(header).to_bytes(8, "little") + header + b"123"
            for header in (
                b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
                b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}}',
                b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,1]}}',
                b'{"a":{"dtype":"X9","shape":[3],"data_offsets":[0,3]}}',
            )
        ),
    ],
)
def test_what_is_no_safetensors_file_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        tensors_of(memoryview(bytearray(data)))


def test_objects_are_what_torch_loads(tmp_path: Path) -> None:
    state = adamw_state() | {"empty": [torch.empty(0)], "shared": None}
    state["shared"] = state["state"][0]["exp_avg"][3:7]
    torch.save(state, tmp_path / "f")
    image = image_of(tmp_path / "f")
    assert is_zip(image)
    loaded = objects_of(image)
    assert same(loaded, torch.load(tmp_path / "f", weights_only=True))
    loaded["state"][0]["exp_avg"][3] = 99.0
    assert loaded["shared"][0] == 99.0
    assert objects_of(image)["shared"][0] == 99.0


def test_the_older_layout_of_torch_is_no_zip(tmp_path: Path) -> None:
    torch.save(adamw_state(), tmp_path / "f", _use_new_zipfile_serialization=False)
    image = image_of(tmp_path / "f")
    assert not is_zip(image)
    assert same(torch.load(ImageFile(image), weights_only=True), adamw_state())


def test_an_image_reads_like_a_file() -> None:
    file, plain = ImageFile(memoryview(bytearray(b"0123456789"))), io.BytesIO(b"0123456789")
    for move in ((3, 0), (2, 1), (-4, 2), (0, 2), (20, 0)):
        assert (file.seek(*move), file.read(3)) == (plain.seek(*move), plain.read(3))
