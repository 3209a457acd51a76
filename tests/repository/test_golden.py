"""Manifests that earlier versions wrote: every one of them is read for ever."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from keepstep.model import Kind
from keepstep.repository import manifest

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("manifest-*.json")), ids=lambda path: path.stem)
def test_every_golden_manifest_is_read(path: Path) -> None:
    checkpoint = manifest.decode(path.read_bytes(), origin=path.name)
    assert checkpoint.kind is Kind.FULL
    assert (checkpoint.run_id, checkpoint.generation, checkpoint.timeline, checkpoint.parent) == ("3f2b9c1d", 7, 2, 5)
    assert (checkpoint.step, checkpoint.epoch) == (300, 1.5)
    assert checkpoint.created == datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
    assert checkpoint.metrics["eval_loss"] == 0.421875
    assert checkpoint.metrics["worst"] == float("inf")
    small = [("model.safetensors", 12), ("sub/optimizer.pt", 0)]
    large = [("big.bin", 36_000_000)] if path.stem != "manifest-1" else []
    others = [("ema.pt", 7), ("merged/big.bin", 36_000_000)] if path.stem == "manifest-3" else []
    assert [(file.path, file.size) for file in checkpoint.files] == small + large + others
    assert [(file.path, file.size) for file in checkpoint.files if file.by] == others
    assert checkpoint.fingerprint["arguments"]["learning_rate"] == 5e-5


def test_chunk_digests_come_with_format_2() -> None:
    checkpoint = manifest.decode((GOLDEN / "manifest-2.json").read_bytes(), origin="golden")
    small, empty, large = checkpoint.files
    assert (small.chunk_digests, empty.chunk_digests) == ((small.digest,), ())
    assert large.chunk_digests == tuple(manifest.digest_of(b"chunk %d" % number) for number in range(3))


def test_what_was_sealed_came_with_format_3() -> None:
    data = (GOLDEN / "sealed-3.json").read_bytes()
    checkpoint = manifest.decode(data, origin="golden")
    assert (checkpoint.kind, checkpoint.lost, checkpoint.name) == (
        Kind.WEIGHTS,
        ("sub/optimizer.pt",),
        "checkpoint-300",
    )
    assert [(file.path, file.by) for file in checkpoint.files] == [
        ("model.safetensors", ""),
        ("big.bin", ""),
        ("ema.pt", "others"),
        ("merged/big.bin", "others"),
    ]
    assert manifest.encode(checkpoint) == data


def test_there_is_one_of_every_version_and_this_one_writes_the_last() -> None:
    versions = list(GOLDEN.glob("manifest-*.json"))
    assert len(versions) == manifest.FORMAT_VERSION
    newest = (GOLDEN / f"manifest-{manifest.FORMAT_VERSION}.json").read_bytes()
    assert manifest.encode(manifest.decode(newest, origin="golden")) == newest
    assert msgspec.json.decode(newest)["format"] == manifest.FORMAT_VERSION
