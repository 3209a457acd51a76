"""Any layout becomes exactly its bytes on disk, or an error with the file's name."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.formats import sink as sink_module
from keepstep.formats.digests import ALGORITHM, SLICE, Digester, Span
from keepstep.formats.direct import DirectWriter, write_file
from keepstep.formats.layout import FileLayout, LayoutBuilder
from keepstep.formats.memory import address, aligned_buffer
from keepstep.formats.tensors import tensor_bytes
from keepstep.model import CHUNK_BYTES
from keepstep.repository import manifest
from tests.formats.kernels import Failing, NoAlignment, NoDirect, Refusing, Short, Slow, sinks

SIZES = [0, 1, 511, 512, 4095, 4096, 4097, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1]
SMALL_REQUEST = 64 * 1024


def random_bytes(size: int, seed: int = 0) -> memoryview:
    generator = torch.Generator().manual_seed(seed)
    return tensor_bytes(torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator))


def one_source(size: int) -> FileLayout:
    builder = LayoutBuilder()
    builder.source("data", size)
    return builder.build()


def expect(path: Path, data: bytes | memoryview, written) -> None:
    content = path.read_bytes()
    assert content == bytes(data)
    assert written.size == len(content)
    assert written.digest == f"xxh3-128:{xxhash.xxh3_128_hexdigest(content)}"
    chunks = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
    assert written.chunk_digests == tuple(manifest.digest_of(chunk) for chunk in chunks)


def test_the_digest_is_the_manifest_s() -> None:
    assert ALGORITHM == manifest.ALGORITHM


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 8])
def test_every_size_around_a_boundary(tmp_path: Path, size: int, shift: int) -> None:
    source = aligned_buffer(size + shift)[shift : shift + size]
    source[:] = random_bytes(size)
    sources = {"data": source} if size else {}
    expect(tmp_path / "file", source, write_file(tmp_path / "file", one_source(size), sources))


@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from(["literal", "source", "late"]), st.sampled_from([0, 1, 7, 511, 4096, 65_536, 200_001])
        ),
        max_size=12,
    ),
    congruent=st.booleans(),
    request_pages=st.sampled_from([1, 3, 16, 64]),
)
@settings(max_examples=60)
def test_any_layout_from_anywhere(tmp_path_factory, pieces, congruent: bool, request_pages: int) -> None:
    builder, whole, sources = LayoutBuilder(), bytearray(), {}
    for number, (kind, size) in enumerate(pieces):
        data = random_bytes(size, seed=number)
        if kind == "literal":
            builder.literal(bytes(data))
        elif kind == "late":
            builder.late(size, lambda _checksums, data=data: bytes(data))
        elif size:
            start = builder.size % 4096 if congruent else (number * 8) % 4096
            lies = aligned_buffer(size + start)[start : start + size]
            lies[:] = data
            sources[str(number)] = lies
            builder.source(str(number), size)
        whole += data if kind != "source" or size else b""
    path = tmp_path_factory.mktemp("layout") / "file"
    with DirectWriter(request_bytes=request_pages * 4096) as writer:
        expect(path, bytes(whole), writer.write(path, builder.build(), sources))


def test_a_congruent_source_is_written_from_where_it_lies(tmp_path: Path) -> None:
    builder = LayoutBuilder()
    builder.literal(b"x" * 100)
    builder.source("data", 1_000_000)
    memory = aligned_buffer(1_001_000)
    source = memory[100:1_000_100]
    source[:] = random_bytes(1_000_000)
    seen: list[int] = []

    class Watching(sink_module.FileSink):
        def write(self, buffers, offset) -> None:
            seen.extend(buffer.nbytes for buffer in buffers)
            super().write(buffers, offset)

    with DirectWriter(open_sink=Watching) as writer:
        expect(
            tmp_path / "f", b"x" * 100 + bytes(source), writer.write(tmp_path / "f", builder.build(), {"data": source})
        )
    assert sorted(seen) == [4096, 4096, 995_328] or not _takes_direct(tmp_path)


@pytest.mark.parametrize("shift", [0, 8, 100, 4095])
def test_requests_are_aligned_wherever_a_source_lies(tmp_path: Path, shift: int) -> None:
    opened: list[sink_module.FileSink] = []

    class Watching(sink_module.FileSink):
        def __init__(self, path: Path, size: int) -> None:
            super().__init__(path, size)
            opened.append(self)
            self.started_direct = self.direct

        def write(self, buffers, offset) -> None:
            assert offset % self.alignment.file == 0
            assert all(address(buffer) % self.alignment.memory == 0 for buffer in buffers)
            assert all(buffer.nbytes % self.alignment.file == 0 for buffer in buffers)
            super().write(buffers, offset)

    source = aligned_buffer(500_000 + shift)[shift : 500_000 + shift]
    source[:] = random_bytes(500_000)
    with DirectWriter(request_bytes=2 * SMALL_REQUEST, open_sink=Watching) as writer:
        expect(tmp_path / "f", source, writer.write(tmp_path / "f", one_source(500_000), {"data": source}))
    assert opened[0].direct == opened[0].started_direct


def test_late_bytes_know_the_checksums_before_them(tmp_path: Path) -> None:
    import zlib

    builder = LayoutBuilder()
    builder.source("a", 100_000)
    builder.late(4, lambda checksums: checksums["a"].to_bytes(4, "little"))
    data = random_bytes(100_000)
    with DirectWriter(request_bytes=4096) as writer:
        written = writer.write(tmp_path / "f", builder.build(), {"a": data})
    expect(tmp_path / "f", bytes(data) + zlib.crc32(data).to_bytes(4, "little"), written)


def test_progress_adds_up(tmp_path: Path) -> None:
    heard: list[int] = []
    write_file(tmp_path / "f", one_source(20_000_000), {"data": random_bytes(20_000_000)}, heard.append)
    assert sum(heard) == 20_000_000
    assert len(heard) == 3


def test_sources_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'data' was not given"):
        write_file(tmp_path / "f", one_source(10), {})
    with pytest.raises(ValueError, match="has 9 bytes, the layout 10"):
        write_file(tmp_path / "f", one_source(10), {"data": random_bytes(9)})
    assert not (tmp_path / "f").exists()


def test_nothing_is_overwritten_and_no_link_followed(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError) as caught:
            write_file(tmp_path / name, one_source(1), {"data": random_bytes(1)})
        assert caught.value.filename == str(tmp_path / name)
    assert (tmp_path / "there").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("limit", [4096, 12_288, 5000])
def test_short_writes_are_continued(tmp_path: Path, limit: int, caplog) -> None:
    data = random_bytes(300_001)
    kernel = Short(limit)
    with DirectWriter(request_bytes=SMALL_REQUEST, open_sink=sinks(kernel)) as writer:
        expect(tmp_path / "f", data, writer.write(tmp_path / "f", one_source(300_001), {"data": data}))
    assert kernel.writes > 300_001 // SMALL_REQUEST + 1
    assert not caplog.records


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("at", [1, 2, 5, 7])
def test_each_failing_write_is_raised_with_the_name(tmp_path: Path, code: int, at: int) -> None:
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
    with DirectWriter(request_bytes=SMALL_REQUEST, open_sink=sinks(Failing(code, at=at))) as writer:
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            writer.write(tmp_path / "f", one_source(7 * SMALL_REQUEST), {"data": random_bytes(7 * SMALL_REQUEST)})
        assert caught.value.errno == code
        assert caught.value.filename == str(tmp_path / "f")
        expect(tmp_path / "g", b"abc", writer.write(tmp_path / "g", _literal(b"abc"), {}))
    if before:
        assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize("call", ["allocate", "truncate", "sync", "close"])
def test_each_failing_call_is_raised_with_the_name(tmp_path: Path, call: str) -> None:
    with DirectWriter(open_sink=sinks(Failing(errno.EIO, call=call))) as writer, pytest.raises(OSError) as caught:  # noqa: PT011
        writer.write(tmp_path / "f", _literal(b"abc"), {})
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == str(tmp_path / "f")


def test_a_kernel_that_takes_nothing_is_an_error(tmp_path: Path) -> None:
    class Nothing(Short):
        def take(self, number, fd, buffers, offset) -> int:
            return 0

    with DirectWriter(open_sink=sinks(Nothing(0))) as writer, pytest.raises(OSError, match="took no bytes"):
        writer.write(tmp_path / "f", _literal(b"abc"), {})


def test_writes_that_overtake_each_other_change_nothing(tmp_path: Path) -> None:
    data = random_bytes(10 * SMALL_REQUEST)
    with DirectWriter(request_bytes=SMALL_REQUEST, in_flight=3, open_sink=sinks(Slow())) as writer:
        # Not congruent, so that every byte goes through a bounce buffer that must not be reused too early.
        shifted = aligned_buffer(len(data) + 8)[8 : 8 + len(data)]
        shifted[:] = data
        expect(tmp_path / "f", data, writer.write(tmp_path / "f", one_source(len(data)), {"data": shifted}))


@pytest.mark.parametrize("kernel", [NoDirect, NoAlignment, Refusing])
def test_without_direct_io_it_is_buffered_and_said_once(tmp_path: Path, kernel, caplog, monkeypatch) -> None:
    monkeypatch.setattr(sink_module, "_told", set())
    monkeypatch.setattr(sink_module, "WRITE_BEHIND", 2 * SMALL_REQUEST)
    data = random_bytes(9 * SMALL_REQUEST + 5)
    with (
        caplog.at_level(logging.WARNING),
        DirectWriter(request_bytes=SMALL_REQUEST, open_sink=sinks(kernel())) as writer,
    ):
        for name in ("a", "b"):
            expect(tmp_path / name, data, writer.write(tmp_path / name, one_source(len(data)), {"data": data}))
    assert sum("no direct I/O" in record.message for record in caplog.records) == 1


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a tmpfs")
def test_on_tmpfs() -> None:
    import tempfile

    data = random_bytes(3 * SMALL_REQUEST + 17)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory) / "f"
        expect(path, data, write_file(path, one_source(len(data)), {"data": data}))


def test_a_file_too_big_for_the_disk_fails_before_a_byte_is_written(tmp_path: Path) -> None:
    kernel = Failing(errno.ENOSPC, call="allocate")
    with DirectWriter(open_sink=sinks(kernel)) as writer, pytest.raises(OSError, match="No space left"):
        writer.write(tmp_path / "f", one_source(10), {"data": random_bytes(10)})
    assert kernel.writes == 0


def test_no_thread_stays_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    write_file(tmp_path / "f", one_source(10), {"data": random_bytes(10)})
    assert threading.active_count() == before


@given(cuts=st.lists(st.integers(0, 3 * 2**20), max_size=5), extra=st.integers(0, 40))
@settings(max_examples=25)
def test_digests_do_not_depend_on_how_the_bytes_arrive(cuts: list[int], extra: int) -> None:
    data = random_bytes(2 * 2**20 + extra)
    digester, start = Digester(), 0
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        digester.update(data[start:cut])
        start = cut
    assert digester.finish() == (manifest.digest_of(bytes(data)), (manifest.digest_of(bytes(data)),))


def test_chunks_end_where_they_end_however_the_bytes_arrive() -> None:
    data = random_bytes(CHUNK_BYTES + 100)
    digester = Digester()
    for start, end in ((0, 5), (5, CHUNK_BYTES - 3), (CHUNK_BYTES - 3, CHUNK_BYTES + 100)):
        digester.update(data[start:end])
    chunks = (data[:CHUNK_BYTES], data[CHUNK_BYTES:])
    assert digester.finish() == (manifest.digest_of(bytes(data)), tuple(manifest.digest_of(bytes(c)) for c in chunks))


def _literal(data: bytes) -> FileLayout:
    builder = LayoutBuilder()
    builder.literal(data)
    return builder.build()


def _takes_direct(directory: Path) -> bool:
    opened = sink_module.FileSink(directory / "probe", 10)
    opened.abandon()
    return opened.direct


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 * SLICE), st.integers(1, 2 * SLICE)), max_size=6),
    st.lists(st.integers(0, 12 * SLICE), max_size=8),
)
def test_a_span_s_digest_is_that_of_its_bytes_however_they_arrive(
    parts: list[tuple[int, int]], cuts: list[int]
) -> None:
    spans, position = [], 0
    for number, (gap, length) in enumerate(parts):
        spans.append(Span(f"s{number}", position + gap, position + gap + length))
        position += gap + length
    data = random_bytes(position + 100)
    digester, start = Digester(spans), 0
    for cut in [*sorted(cut for cut in cuts if cut < data.nbytes), data.nbytes]:
        digester.update(data[start:cut])
        start = cut
    assert digester.span_digests == {s.name: xxhash.xxh3_128_digest(data[s.start : s.end]) for s in spans}
    assert digester.finish()[0] == manifest.digest_of(bytes(data))


def test_a_writer_digests_each_source_where_that_is_asked_for(tmp_path: Path) -> None:
    builder, sources = LayoutBuilder(), {}
    for number, size in enumerate((1, 5000, 3 * SMALL_REQUEST + 7)):
        builder.literal(b"x" * number)
        builder.source(str(number), size)
        sources[str(number)] = random_bytes(size)
    with DirectWriter(request_bytes=SMALL_REQUEST) as writer:
        asked = writer.write(tmp_path / "a", builder.build(), sources, digest_sources=True)
        not_asked = writer.write(tmp_path / "b", builder.build(), sources)
    assert asked.sources == {name: xxhash.xxh3_128_digest(data) for name, data in sources.items()}
    assert not not_asked.sources
    assert asked[:3] == not_asked[:3]
