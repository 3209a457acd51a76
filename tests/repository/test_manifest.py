"""The manifest refuses every change, every path that leads outside, and every shape that is not its own."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from keepstep.errors import LayoutTooNew, ManifestInvalid
from keepstep.model import CHUNK_BYTES, Checkpoint, FileEntry, Kind
from keepstep.repository import manifest
from tests.checkpoints import make_checkpoint

SAMPLE = replace(
    make_checkpoint(3, metrics={"eval_loss": 0.25, "bad": math.nan, "high": math.inf, "low": -math.inf}, parent=2),
    timeline=1,
    epoch=0.5,
    written_by={"keepstep": "0.1", "world_size": 1},
    fingerprint={"arguments": {"seed": 1}, "names": ["a", None, True, 0.5]},
)


def sealed(fields: dict[str, Any] | str) -> bytes:
    """A manifest of any content with a digest that matches."""
    text = fields if isinstance(fields, str) else json.dumps({k: v for k, v in fields.items() if k != "digest"})
    body = text.encode().rstrip().removesuffix(b"}").rstrip()
    return body + b',\n "digest": "' + manifest.digest_of(body).encode() + b'"\n}\n'


def changed(**fields: Any) -> bytes:
    return sealed({**json.loads(manifest.encode(SAMPLE)), **fields})


def decode(data: bytes) -> Checkpoint:
    return manifest.decode(data, origin="here")


def test_a_sealed_copy_decodes_so_that_the_refusals_below_mean_something() -> None:
    assert decode(changed()).step == SAMPLE.step


def test_every_change_of_one_byte_is_refused() -> None:
    data = manifest.encode(SAMPLE)
    for offset in range(len(data)):
        for other in {data[offset] ^ 1, data[offset] ^ 0x80, 0, 0x20, 0x39} - {data[offset]}:
            with pytest.raises(ManifestInvalid):
                decode(data[:offset] + bytes([other]) + data[offset + 1 :])


def test_every_truncation_and_every_insertion_is_refused() -> None:
    data = manifest.encode(SAMPLE)
    for offset in range(len(data)):
        with pytest.raises(ManifestInvalid):
            decode(data[:offset])
        with pytest.raises(ManifestInvalid):
            decode(data[:offset] + b" " + data[offset:])
    with pytest.raises(ManifestInvalid):
        decode(data + b"\n")


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "./a", "a//b", "a/", ".", "", "a\\..\\b", "a\0b", "//x",
     "keepstep.json", "x" * 5000],
)  # fmt: skip
def test_a_path_that_leads_outside_is_refused(path: str) -> None:
    entry = {"path": path, "size": 1, "digest": manifest.digest_of(b"")}
    with pytest.raises(ManifestInvalid):
        decode(changed(files=[entry]))


def test_a_file_named_twice_is_refused() -> None:
    entry = {"path": "a", "size": 1, "digest": manifest.digest_of(b"")}
    with pytest.raises(ManifestInvalid, match="twice"):
        decode(changed(files=[entry, entry]))


@pytest.mark.parametrize(
    "fields",
    [
        {"surprise": 1},
        {"format": 0},
        {"format": True},
        {"format": "1"},
        {"format": None},
        {"run_id": ""},
        {"generation": 0},
        {"generation": "3"},
        {"generation": 1.5},
        {"timeline": 0},
        {"parent": 0},
        {"step": -1},
        {"step": None},
        {"epoch": "NaN"},
        {"kind": "half"},
        {"created": "yesterday"},
        {"metrics": {"loss": "good"}},
        {"metrics": {"loss": None}},
        {"metrics": []},
        {"files": None},
        {"files": [{"path": "a", "size": -1, "digest": manifest.digest_of(b"")}]},
        {"files": [{"path": "a", "size": 1, "digest": "md5:0"}]},
        {"files": [{"path": "a", "size": 1}]},
        {"files": [{"path": "a", "size": 1, "digest": manifest.digest_of(b""), "mode": 7}]},
        {"files": [{"path": "a" * 4097, "size": 1, "digest": manifest.digest_of(b"")}]},
        # Lines that would look like two digests if they were only joined.
        {
            "files": [
                {"path": "a", "size": 1, "digest": f"{manifest.digest_of(b'')}\n{manifest.digest_of(b'')}"},
                {"path": "b", "size": 1, "digest": ""},
            ]
        },
        {"files": [{"path": "a", "size": 1, "digest": manifest.digest_of(b"").upper()}]},
        {"files": [{"path": "a", "size": 1, "digest": manifest.digest_of(b"") + "\n"}]},
        {"written_by": 1},
        {"files": [{"path": "a", "size": 1, "digest": manifest.digest_of(b""), "by": "me"}]},
        {"kind": "weights", "lost": "optimizer.pt"},
        {"kind": "weights", "lost": [1]},
        {"kind": "weights", "lost": [""]},
    ],
)
def test_another_shape_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ManifestInvalid):
        decode(changed(**fields))


def test_a_missing_field_is_refused() -> None:
    fields = json.loads(manifest.encode(SAMPLE))
    for name in set(fields) - {"digest"}:
        with pytest.raises(ManifestInvalid):
            decode(sealed({key: value for key, value in fields.items() if key != name}))


@pytest.mark.parametrize("value", [b'"\xff"', b"1e999", b"[" * 5000 + b"]" * 5000])
@pytest.mark.parametrize("member", [b"written_by", b"fingerprint"])
def test_what_a_listing_does_not_show_is_decoded_all_the_same(member: bytes, value: bytes) -> None:
    body, _, _ = manifest.encode(SAMPLE).rpartition(b',\n "digest"')
    start = body.index(b'"' + member + b'": {') + len(member) + 5
    body = body[:start] + b'\n  "bad": ' + value + b"," + body[start:]
    with pytest.raises(ManifestInvalid):
        decode(body + b',\n "digest": "' + manifest.digest_of(body).encode() + b'"\n}\n')


def test_what_manifests_say_alike_is_decoded_once() -> None:
    one = decode(changed(step=300))
    other = decode(changed(step=400, fingerprint=dict(SAMPLE.fingerprint)))
    different = decode(changed(step=500, fingerprint={**SAMPLE.fingerprint, "device": "another"}))

    assert one.fingerprint["arguments"] is other.fingerprint["arguments"]
    assert manifest._known_object.cache_info().hits > 0
    assert different.fingerprint == {**SAMPLE.fingerprint, "device": "another"}


def test_a_bare_nan_is_refused() -> None:
    with pytest.raises(ManifestInvalid):
        decode(changed(metrics={"loss": math.nan}))


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 100, b"null", b"[]", b'"x"', b"{}", b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe", b"1e999"],
    ids=["empty", "zeros", "null", "list", "string", "object", "deep list", "deep object", "no utf-8", "huge number"],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        decode(data)


def test_a_newer_format_is_named_as_such_and_only_when_its_digest_holds() -> None:
    newer = changed(format=manifest.FORMAT_VERSION + 1, something={"new": 1})
    with pytest.raises(LayoutTooNew, match=f"format {manifest.FORMAT_VERSION + 1}"):
        decode(newer)
    with pytest.raises(ManifestInvalid):
        decode(newer.replace(b'"new": 1', b'"new": 2'))


@pytest.mark.parametrize(
    ("size", "chunks", "version"),
    [
        (CHUNK_BYTES, "0" * 32, 2),
        (CHUNK_BYTES + 1, "0" * 32, 2),
        (CHUNK_BYTES + 1, "0" * 96, 2),
        (CHUNK_BYTES + 1, "0" * 63, 2),
        (CHUNK_BYTES + 1, "0" * 63 + "g", 2),
        (CHUNK_BYTES + 1, "0" * 63 + "\n", 2),
        (CHUNK_BYTES + 1, ["0" * 32, "0" * 32], 2),
        (CHUNK_BYTES + 1, "0" * 64, 1),
    ],
)
def test_chunk_digests_that_do_not_fit_are_refused(size: int, chunks: Any, version: int) -> None:
    entry = {"path": "f", "size": size, "digest": manifest.digest_of(b""), "chunks": chunks}
    good = {**entry, "size": CHUNK_BYTES + 1, "chunks": "0" * 64}
    assert decode(changed(files=[good])).files[0].chunk_digests == ("xxh3-128:" + "0" * 32,) * 2
    with pytest.raises(ManifestInvalid):
        decode(changed(files=[entry], format=version))


OTHERS = {"path": "ema.pt", "size": 1, "digest": manifest.digest_of(b""), "by": "others"}


def test_what_a_seal_says_is_read() -> None:
    sealed = decode(changed(files=[OTHERS], kind="weights", lost=["optimizer.pt"]))
    assert (sealed.files[0].by, sealed.lost, sealed.name) == ("others", ("optimizer.pt",), "checkpoint-300")


@pytest.mark.parametrize(
    "fields",
    [
        {"files": [OTHERS], "format": 2},
        {"kind": "weights", "lost": ["optimizer.pt"], "format": 2},
        {"kind": "full", "lost": ["optimizer.pt"]},
        {"kind": "weights", "lost": ["../optimizer.pt"]},
        {"kind": "weights", "lost": ["keepstep.json"]},
        {"kind": "weights", "lost": ["model.safetensors"]},
    ],
    ids=["by in format 2", "lost in format 2", "of a full one", "outside", "the manifest", "listed"],
)
def test_what_no_seal_says_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ManifestInvalid):
        decode(changed(**fields))


def test_a_manifest_ends_in_its_digest() -> None:
    data = manifest.encode(SAMPLE)
    assert manifest.digest_in(data) == json.loads(data)["digest"]
    assert manifest.digest_in(b"{}") == manifest.digest_of(b"{}")


def test_a_terabyte_fits_into_a_manifest() -> None:
    size = 10**12
    chunks = "0" * (-(-size // CHUNK_BYTES) * 32)
    large = replace(SAMPLE, files=(FileEntry("f", size, manifest.digest_of(b""), chunks),))
    assert len(manifest.encode(large)) < manifest.SIZE_LIMIT / 20


def test_metrics_that_json_lacks_come_back() -> None:
    metrics = decode(manifest.encode(SAMPLE)).metrics
    assert math.isnan(metrics["bad"])
    assert (metrics["high"], metrics["low"], metrics["eval_loss"]) == (math.inf, -math.inf, 0.25)


def test_the_schema_accepts_what_is_written_and_refuses_another() -> None:
    schema = manifest.json_schema()
    good = json.loads(manifest.encode(SAMPLE))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(good, schema)
    for bad in ({**good, "step": -1}, {**good, "surprise": 1}, {**good, "kind": "half"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1)
PATHS = st.lists(NAMES.filter(lambda n: n not in (".", "..")), min_size=1, max_size=3).map("/".join)
DIGESTS = st.binary(max_size=8).map(manifest.digest_of)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
CHECKPOINTS = st.builds(
    Checkpoint,
    run_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
    generation=st.integers(1, 2**62),
    timeline=st.integers(1, 2**62),
    parent=st.none() | st.integers(1, 2**62),
    step=st.integers(0, 2**62),
    epoch=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    kind=st.sampled_from(Kind),
    created=st.datetimes(
        datetime(1970, 1, 2),
        datetime(9000, 1, 1),
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7)), timezone(timedelta(minutes=345))]),
    ),
    metrics=st.dictionaries(st.text(st.characters(codec="utf-8")), st.floats(allow_nan=False), max_size=4),
    files=st.lists(
        st.builds(FileEntry, PATHS, st.integers(0, 2**62), DIGESTS, by=st.sampled_from(["", "others"])),
        max_size=4,
        unique_by=lambda entry: entry.path,
    ).map(tuple),
    written_by=st.dictionaries(st.text(st.characters(codec="utf-8")), PLAIN, max_size=3),
    fingerprint=st.dictionaries(st.text(st.characters(codec="utf-8")), PLAIN, max_size=3),
)


@settings(max_examples=150)
@given(
    CHECKPOINTS.filter(lambda c: all(f.path != "keepstep.json" for f in c.files)),
    st.lists(st.sampled_from(["optimizer.pt", "scheduler.pt", "optimizer_0/__0_0.distcp"]), unique=True),
)
def test_a_checkpoint_comes_back_as_it_went(checkpoint: Checkpoint, lost: list[str]) -> None:
    checkpoint = checkpoint.without(set(lost) - {file.path for file in checkpoint.files})
    data = manifest.encode(checkpoint)
    assert decode(data) == checkpoint
    assert manifest.encode(decode(data)) == data


def test_files_are_values() -> None:
    entry = FileEntry("a", 1, manifest.digest_of(b""))
    same = FileEntry("a", 1, manifest.digest_of(b""))
    assert (entry, hash(entry)) == (same, hash(same))
    assert len({entry, same, FileEntry("b", 1, manifest.digest_of(b""))}) == 2
    with pytest.raises(AttributeError):
        entry.size = 2  # type: ignore[misc]


@pytest.mark.parametrize("created", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_time_that_is_none_in_utc_is_refused(created: str) -> None:
    data = manifest.encode(SAMPLE)
    body = re.sub(rb'"created": "[^"]*"', b'"created": "' + created.encode() + b'"', data[: -manifest._TAIL_LENGTH])
    with pytest.raises(ManifestInvalid, match="none in UTC"):
        manifest.decode(body + manifest._tail(body), origin="here")


def test_what_manifests_say_alike_is_each_one_s_own() -> None:
    data = manifest.encode(SAMPLE)
    one, other = manifest.decode(data), manifest.decode(data)
    one.written_by["torch"] = "changed"  # type: ignore[index]
    assert other.written_by == manifest.decode(data).written_by == SAMPLE.written_by
