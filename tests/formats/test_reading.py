"""What is loaded is what was written; what was changed since is found, with the number of its chunk."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.errors import CheckpointCorrupt
from keepstep.formats.chunks import BUFFERED_READ, DIRECT_READ, ChunkCorrupt, ChunkedFile
from keepstep.formats.digests import digest_of
from keepstep.formats.kernel import Alignment, Kernel
from keepstep.formats.memory import aligned_buffer
from keepstep.formats.reading import load_safetensors_into, load_torch, verify_file
from keepstep.formats.targets import Target
from keepstep.formats.tensors import tensor_bytes
from keepstep.model import CHUNK_BYTES
from tests.formats.files import BIG, adamw_state, flip, same, write_safetensors, write_torch

WEIGHTS = {
    "big": torch.arange(5_000_000, dtype=torch.int64),
    "half": torch.arange(1001, dtype=torch.float32).to(torch.bfloat16),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(2.5),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[Path, tuple[str, ...]]:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    return path, write_safetensors(path, WEIGHTS).chunk_digests


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("direct", [True, False, None])
def test_weights_come_back(weights, threads: int, checked: bool, direct: bool | None) -> None:
    path, digests = weights
    loaded = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    heard: list[int] = []
    load_safetensors_into(
        path, loaded, digests if checked else None, threads=threads, direct=direct, on_bytes=heard.append
    )
    assert same(loaded, WEIGHTS)
    assert sum(heard) == path.stat().st_size


def test_weights_come_into_plain_memory(weights) -> None:
    path, digests = weights
    loaded = {name: memoryview(bytearray(tensor.numel() * tensor.element_size())) for name, tensor in WEIGHTS.items()}
    load_safetensors_into(path, loaded, digests)
    assert all(loaded[name] == tensor_bytes(tensor) for name, tensor in WEIGHTS.items())


def test_another_model_is_refused_untouched(weights) -> None:
    path, digests = weights
    loaded = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    for change in (
        {"scalar": torch.zeros(())[None]},
        {"half": torch.zeros(1001, dtype=torch.float16)},
        {"half": memoryview(bytearray(2000))},
        {"new": torch.zeros(1)},
    ):
        with pytest.raises(ValueError, match=r"fit|lacks"):
            load_safetensors_into(path, loaded | change, digests)
    assert not loaded["big"].any()


@pytest.mark.parametrize("offset", [0, 20, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5, -1])
def test_a_flipped_bit_is_found_in_its_chunk(weights, tmp_path: Path, offset: int) -> None:
    source, digests = weights
    path = tmp_path / "copy"
    path.write_bytes(source.read_bytes())
    offset %= path.stat().st_size
    flip(path, offset)
    loaded = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    with pytest.raises(ChunkCorrupt) as caught:
        load_safetensors_into(path, loaded, digests)
    assert caught.value.chunk == offset // CHUNK_BYTES
    with pytest.raises(CheckpointCorrupt, match=rf"\(chunk {offset // CHUNK_BYTES}, "):
        verify_file(path, digests)
    flip(path, offset)
    verify_file(path, digests, size=path.stat().st_size)


@pytest.mark.parametrize(
    "size", [0, 1, 4097, BUFFERED_READ, DIRECT_READ + 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1]
)
def test_sizes_around_a_chunk(tmp_path: Path, size: int) -> None:
    path, data = tmp_path / "f", bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    path.write_bytes(data)
    digests = [digest_of(data[at : at + CHUNK_BYTES]) for at in range(0, size, CHUNK_BYTES)]
    verify_file(path, digests, size=size)
    with pytest.raises(ChunkCorrupt, match="instead of"):
        verify_file(path, digests, size=size + 1)
    with pytest.raises(ChunkCorrupt, match="chunks were written"):
        verify_file(path, [*digests, digest_of(b"")])


@pytest.mark.parametrize("direct", [True, False])
def test_optimizer_comes_back(tmp_path: Path, direct: bool) -> None:
    path, state = tmp_path / "optimizer.pt", adamw_state(numel=BIG)
    state["shared"] = state["state"][0]["exp_avg"][10:20]
    state["empty"] = [torch.empty(0), torch.empty(0)]
    digests = write_torch(path, state).chunk_digests
    assert len(digests) > 1
    loaded = load_torch(path, digests, direct=direct)
    assert same(loaded, state)
    loaded["state"][0]["exp_avg"][10] = -1
    assert loaded["shared"][0] == -1
    assert loaded["state"][0]["exp_avg"].untyped_storage().nbytes() == BIG * 4
    torch.save(loaded["state"][1]["exp_avg"], tmp_path / "one")
    assert (tmp_path / "one").stat().st_size < BIG * 4 + 10_000


def test_optimizer_comes_into_given_memory(tmp_path: Path) -> None:
    path, state = tmp_path / "optimizer.pt", adamw_state()
    written = write_torch(path, state)
    buffer = aligned_buffer(written.size)
    loaded = load_torch(path, written.chunk_digests, buffer=buffer)
    assert same(loaded, state)
    buffer[:] = bytes(len(buffer))
    assert not loaded["state"][1]["exp_avg"].any()
    with pytest.raises(ValueError, match="the buffer 10"):
        load_torch(path, written.chunk_digests, buffer=memoryview(bytearray(10)))


def test_a_file_that_torch_wrote_comes_back(tmp_path: Path) -> None:
    path, state = tmp_path / "optimizer.pt", adamw_state(12)
    torch.save(state, path)
    assert same(load_torch(path, [digest_of(path.read_bytes())]), state)


def test_nothing_is_unpickled_before_all_digests_hold(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "optimizer.pt"
    digests = write_torch(path, adamw_state(numel=BIG)).chunk_digests
    flip(path, path.stat().st_size - 1)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(ChunkCorrupt) as caught:
        load_torch(path, digests)
    assert caught.value.chunk == len(digests) - 1


def test_code_in_a_pickle_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "done"),)

    torch.save(Evil(), tmp_path / "f")
    with pytest.raises(pickle.UnpicklingError):
        load_torch(tmp_path / "f", [digest_of((tmp_path / "f").read_bytes())])
    assert not (tmp_path / "done").exists()


def test_links_and_directories_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("link", ".", "missing"):
        with pytest.raises(OSError):  # noqa: PT011
            verify_file(tmp_path / name, [digest_of(b"x")])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        (100).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{x",
    ],
)
def test_what_is_no_safetensors_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011
        load_safetensors_into(tmp_path / "f", {}, None)


def test_tensors_beyond_the_end_are_an_error(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    (tmp_path / "f").write_bytes(len(header).to_bytes(8, "little") + header + b"123")
    with pytest.raises(ValueError, match="beyond its end"):
        load_safetensors_into(tmp_path / "f", {"a": torch.zeros(4, dtype=torch.uint8)}, None)


@given(spans=st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 700_000)), max_size=6), direct=st.booleans())
@settings(max_examples=40)
def test_targets_get_exactly_their_range(tmp_path_factory, spans: list[tuple[int, int]], direct: bool) -> None:
    data = bytes(tensor_bytes(torch.randint(0, 256, (5_000_000,), dtype=torch.uint8)))
    path = tmp_path_factory.mktemp("targets") / "f"
    path.write_bytes(data)
    targets, position = [], 0
    for gap, wanted in spans:
        start = position + gap % 900_000
        length = min(wanted, max(0, len(data) - start))
        targets.append(Target(start, memoryview(bytearray(length))))
        position = start + length
    targets = [target for target in targets if target.view.nbytes]
    with ChunkedFile(path, [digest_of(data)], direct=direct) as file:
        file.read(targets)
    assert all(target.view == data[target.offset : target.offset + target.view.nbytes] for target in targets)


class RefusesDirect(Kernel):
    """A file system that takes O_DIRECT and then refuses any read that was not promised enough alignment."""

    def alignment(self, fd: int) -> Alignment | None:
        return Alignment(1, 1) if super().alignment(fd) else None


def test_a_refused_direct_read_is_done_through_the_page_cache(tmp_path: Path) -> None:
    data = bytes(tensor_bytes(torch.randint(0, 256, (3_000_001,), dtype=torch.uint8)))
    (tmp_path / "f").write_bytes(data)
    target = aligned_buffer(len(data) + 8)[3 : 3 + len(data)]
    with ChunkedFile(tmp_path / "f", [digest_of(data)], direct=True, kernel=RefusesDirect()) as file:
        file.read([Target(0, target)])
        assert not file.direct
    assert target == data


def test_a_cached_file_is_read_from_the_cache(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(1_000_000))
    with ChunkedFile(tmp_path / "f", None) as file:
        assert not file.direct
    with ChunkedFile(tmp_path / "f", None, direct=False) as file:
        assert not file.direct
