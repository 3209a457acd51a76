"""The imprint of a state: what its digests tell apart, where they come from, and its file."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from keepstep.engine import IMPRINT_NAME, FastEngine, Impression, Imprint, Mark, Recorded, mark_of, marks_of  # noqa: E402
from keepstep.snapshot.arena import Arena  # noqa: E402

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
]


def values(dtype: Any, *shape: int, seed: int = 0) -> Any:
    """Random bytes as a tensor of a dtype; zeros and ones for bool."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty(shape, dtype=dtype).nbytes
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator).view(dtype).view(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_bit_anywhere_is_another_digest(dtype: Any) -> None:
    tensor = values(dtype, 7, 6)
    before = mark_of(tensor)
    raw = tensor.view(torch.uint8)
    for number in range(raw.numel()):
        for bit in (1,) if dtype is torch.bool else (1, 128):
            raw.view(-1)[number] ^= bit
            assert mark_of(tensor) != before
            raw.view(-1)[number] ^= bit
    assert mark_of(tensor) == before


def test_threads_that_share_a_state_take_the_same_marks() -> None:
    state = {f"layer {number}": values(torch.float32, 700_000, seed=number) for number in range(9)}
    state |= {f"norm {number}": values(torch.bfloat16, 3, number, seed=number) for number in range(5)}
    state["turned"] = values(torch.float16, 1200, 1500).T
    assert marks_of(state) == {name: mark_of(tensor) for name, tensor in state.items()}
    state["sparse"] = torch.eye(3).to_sparse()
    with pytest.raises((ValueError, TypeError, RuntimeError, NotImplementedError)):
        marks_of(state)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_change_places_are_another_digest(dtype: Any) -> None:
    tensor = values(dtype, 6, 5)
    assert mark_of(tensor[[0, 2, 1, 3, 4, 5]]) != mark_of(tensor)
    assert mark_of(tensor.flip(0)) != mark_of(tensor)


def test_a_scale_by_less_than_a_percent_and_a_sign_are_seen() -> None:
    tensor = values(torch.bfloat16, 64).nan_to_num(1.0)
    assert mark_of(tensor * (1 + 2**-7)) != mark_of(tensor)
    assert mark_of(torch.zeros(3)) != mark_of(-torch.zeros(3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_digest_is_of_the_values_however_they_lie(dtype: Any) -> None:
    tensor = values(dtype, 6, 5)
    apart = torch.empty(7, 12, dtype=dtype)[1:, ::2][:, :5]
    apart.copy_(tensor)
    assert not apart.is_contiguous() and apart.storage_offset()
    assert mark_of(apart) == mark_of(tensor)
    assert mark_of(tensor.t().contiguous().t()) == mark_of(tensor)


def test_shape_and_dtype_belong_to_the_mark() -> None:
    tensor = values(torch.float32, 6, 4)
    assert mark_of(tensor.view(4, 6)) != mark_of(tensor)
    assert mark_of(tensor.view(torch.int32)) != mark_of(tensor)
    assert mark_of(torch.tensor(3.0)).shape == () and mark_of(torch.empty(0, 3)).numel == 0


def test_conjugates_and_negatives_that_are_pending_are_their_values() -> None:
    tensor = values(torch.complex64, 8).nan_to_num(0.5)
    assert tensor.conj().is_conj()
    assert mark_of(tensor.conj()) == mark_of(tensor.conj().resolve_conj())


def imprint() -> Imprint:
    model = {"layers.0.weight": mark_of(values(torch.bfloat16, 3, 4)), "scale": mark_of(torch.tensor(2.0))}
    return Imprint(model, {"layers.0.weight|exp_avg": mark_of(torch.zeros(3, 4))}, frozenset({"scale"}))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    imprint().write(tmp_path)
    assert Imprint.read(tmp_path) == imprint()


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    assert Imprint.read(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"no zlib", zlib.compress(b"no msgpack"), zlib.compress(b"\x80")])
def test_a_file_that_can_not_be_read_is_said(tmp_path: Path, content: bytes, caplog: Any) -> None:
    (tmp_path / IMPRINT_NAME).write_bytes(content)
    assert Imprint.read(tmp_path) is None
    assert "not compared" in caplog.text


def test_a_later_format_is_left_alone(tmp_path: Path) -> None:
    imprint().write(tmp_path)
    content = msgspec.msgpack.decode(zlib.decompress((tmp_path / IMPRINT_NAME).read_bytes()))
    (tmp_path / IMPRINT_NAME).write_bytes(zlib.compress(msgspec.msgpack.encode({**content, "format": 2})))
    assert Imprint.read(tmp_path) is None


def test_it_stays_small_for_a_hundred_thousand_tensors(tmp_path: Path) -> None:
    names = [f"model.layers.{n // 1000}.mlp.experts.{n % 1000}.gate_proj.weight" for n in range(100_000)]
    Imprint({name: Mark("bfloat16", (4096, 14336), os.urandom(16)) for name in names}, {}).write(tmp_path)
    assert (tmp_path / IMPRINT_NAME).stat().st_size < 30 * len(names)


# -- taken while a state is saved ------------------------------------------------------------------------


class Model(torch.nn.Module):
    """A weight, one that is written transposed, one that is frozen and not written, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(values(torch.float32, 300, 400))
        self.other = torch.nn.Parameter(values(torch.bfloat16, 40, 30))
        self.frozen = torch.nn.Parameter(values(torch.float32, 5), requires_grad=False)
        self.register_buffer("seen", torch.zeros(4))
        self.register_buffer("unsaved", torch.zeros(2))


def recorded_of(model: Any, moments: dict[str, Any], root: Path) -> Recorded:
    tensors = {"w": model.weight, "o": model.other.t().contiguous(), "seen": model.seen}
    return Recorded({root / "model.safetensors": (tensors, {"format": "pt"})}, {root / "optimizer.pt": moments})


def impression_of(model: Any, moments: dict[str, Any]) -> Impression:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return Impression(tensors, {f"weight|{key}": tensor for key, tensor in moments.items()}, optional={"frozen"})


def test_it_is_that_of_the_state_when_the_save_began(tmp_path: Path) -> None:
    """Written unchanged, written otherwise, not written, and changed by the next forward pass: all as they were."""
    model = Model()
    moments = {"exp_avg": values(torch.float32, 300, 400, seed=1), "step": torch.tensor(3.0)}
    before = {name: mark_of(t) for name, t in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items()}
    moments_before = {f"weight|{key}": mark_of(tensor) for key, tensor in moments.items()}
    engine, impression = FastEngine(Arena()), impression_of(model, moments)
    finish = engine.snapshot(recorded_of(model, moments, tmp_path), tmp_path, model, impression)
    model.seen += 1
    model.unsaved += 1
    engine.gate()
    with torch.no_grad():
        for tensor in [*model.parameters(), *moments.values()]:
            tensor.zero_()
    finish(tmp_path)
    engine.close()
    taken = impression.imprint()
    assert taken.model == {name: mark for name, mark in before.items() if name != "frozen"}
    assert taken.optimizer == moments_before


def test_a_tensor_of_which_no_digest_can_be_taken_is_left_out() -> None:
    meta = torch.empty(3, device="meta")
    sparse = torch.eye(3).to_sparse()
    impression = Impression({"meta": meta, "sparse": sparse, "plain": torch.ones(2)}, {})
    impression.take_all(lambda _: False)
    assert list(impression.imprint().model) == ["plain"]
