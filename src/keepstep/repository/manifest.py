"""The manifest: a checkpoint's one file of truth, `keepstep.json`, and its way to and from `Checkpoint`."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import msgspec
import xxhash
from msgspec import Meta

from keepstep.errors import LayoutTooNew, ManifestInvalid, StorageError
from keepstep.model import CHUNK_BYTES, CHUNK_DIGITS, Checkpoint, FileEntry, Kind, State
from keepstep.strict import finite_or_name

MANIFEST_NAME = "keepstep.json"
FORMAT_VERSION = 3
SIZE_LIMIT = 64 * 2**20
"""Bytes above which a manifest is refused unread: 64 MiB, some 400,000 files."""
ALGORITHM = "xxh3-128"

LONGEST_PATH = 4096
"""Characters of the longest path of a file."""

Count = Annotated[int, Meta(ge=0)]
# The length too: `$` lets a line end pass.
Digest = Annotated[str, Meta(pattern=r"^xxh3-128:[0-9a-f]{32}$", max_length=41)]
LostPath = Annotated[str, Meta(min_length=1, max_length=LONGEST_PATH)]
Chunks = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})*$")]
Object = TypeVar("Object")
MetricValue = float | Literal["NaN", "Infinity", "-Infinity"]


class ManifestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: POSIX path relative to the checkpoint, size in bytes, digest of its bytes.

    From format 2 on, `chunks` of a file of more than 16 MiB has the 32 hexadecimal digits of the digest of each 16 MiB
    (the last: of the rest), one behind the other. From format 3 on, `by` is `others` for a file that others put beside
    the checkpoint's own, and that no loader reads.
    """

    path: Annotated[str, Meta(min_length=1, max_length=LONGEST_PATH)]
    size: Count
    digest: Digest
    chunks: Chunks = ""
    by: Literal["", "others"] = ""


class _Head(msgspec.Struct, Generic[Object], frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All members but the files.

    From format 3 on, `lost` has the paths of files that a resume needs and that others took out of what was committed
    as a full checkpoint: its kind is `weights` then.
    """

    format: Literal[1, 2, 3]
    run_id: Annotated[str, Meta(min_length=1, max_length=200)]
    generation: Annotated[int, Meta(ge=1)]
    timeline: Annotated[int, Meta(ge=1)]
    parent: Annotated[int, Meta(ge=1)] | None
    step: Count
    epoch: float | None
    kind: Literal["full", "weights"]
    created: datetime
    metrics: dict[str, MetricValue]
    written_by: Object
    fingerprint: Object
    digest: Digest
    lost: list[LostPath] = []


class Manifest(_Head[dict[str, Any]], frozen=True, forbid_unknown_fields=True):
    """The content of `keepstep.json`, format versions 1 to 3."""

    files: list[ManifestFile]


class _Listed(_Head[msgspec.Raw], frozen=True, forbid_unknown_fields=True):
    """The same as it is read in a listing: its files in their final form, their paths and digests not yet checked."""

    files: tuple[FileEntry, ...]


_DECODER = msgspec.json.Decoder(_Listed)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
LONGEST_SHARED = 2**16
MOST_SHARED = 4096
"""Bytes, and names of files, up to which what all checkpoints of a run say alike is remembered."""


def digest_of(data: bytes) -> str:
    """`xxh3-128:<hex>` of some bytes."""
    return f"{ALGORITHM}:{xxhash.xxh3_128_hexdigest(data)}"


def encode(checkpoint: Checkpoint) -> bytes:
    """The manifest's bytes: indented JSON whose last member is the digest of every byte before it."""
    fields: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "run_id": checkpoint.run_id,
        "generation": checkpoint.generation,
        "timeline": checkpoint.timeline,
        "parent": checkpoint.parent,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "kind": checkpoint.kind.value,
        **({"lost": list(checkpoint.lost)} if checkpoint.lost else {}),
        "created": checkpoint.created.astimezone(UTC),
        "metrics": {name: finite_or_name(float(value)) for name, value in checkpoint.metrics.items()},
        "files": [_file_out(file) for file in checkpoint.files],
        "written_by": dict(checkpoint.written_by),
        "fingerprint": dict(checkpoint.fingerprint),
    }
    text = msgspec.json.format(msgspec.json.encode(fields, order="deterministic"), indent=1)
    body = text.rstrip().removesuffix(b"}").rstrip()
    return body + _tail(body)


def readable(checkpoint: Checkpoint) -> bytes:
    """The manifest's bytes, read back once: what can't be read must not be committed. Raises StorageError."""
    if not checkpoint.files:
        raise StorageError("nothing was written")
    try:
        data = encode(checkpoint)
        decode(data, origin="its manifest")
    except (TypeError, ValueError) as error:
        raise StorageError(f"no manifest can name what was written: {error}") from error
    if len(data) > SIZE_LIMIT:
        raise StorageError("its files are too many for one manifest")
    return data


def decode(
    data: bytes, *, origin: str | None = None, path: Path | None = None, state: State = State.COMMITTED
) -> Checkpoint:
    """The checkpoint that a manifest's bytes describe; `origin` names it in errors, its place in `path` by default.

    Raises ManifestInvalid when it is not JSON, has another shape, names a file outside of its directory, or
    does not match its own digest; LayoutTooNew when a newer keepstep wrote it.
    """
    if (sound := _decode_sound(data, path, state)) is not None:
        return sound
    origin = origin or f"{path}/{MANIFEST_NAME}"
    manifest = _parse(data, origin)
    _check_paths(manifest.files, origin)
    files = tuple(FileEntry(f.path, f.size, f.digest, f.chunks, f.by) for f in manifest.files)
    _check_chunks(files, manifest.format, origin)
    _check_seal(manifest, files, origin)
    try:
        return _checkpoint(manifest, files, (manifest.written_by, manifest.fingerprint), path, state)
    except OverflowError as error:
        raise ManifestInvalid(f"{origin} was created at a time that is none in UTC: {manifest.created}") from error


def _decode_sound(data: bytes, path: Path | None, state: State) -> Checkpoint | None:
    """The checkpoint in one go, as it is in thousands of a listing; None when anything is wrong with it."""
    if data[-_TAIL_LENGTH:] != _tail(data[:-_TAIL_LENGTH]):
        return None
    try:
        listed = _DECODER.decode(data)
        said = _object(listed.written_by), _object(listed.fingerprint)
        sound = _are_sound(listed.files, listed.format) and not _what_of_the_seal(listed, listed.files)
        return _checkpoint(listed, listed.files, said, path, state) if sound else None
    except (ValueError, RecursionError, OverflowError):
        return None


def _object(raw: msgspec.Raw) -> dict[str, Any]:
    """A JSON object, decoded once for the same bytes: a run says the same in each of thousands of manifests."""
    data = bytes(raw)
    return dict(_known_object(data)) if len(data) <= LONGEST_SHARED else _OBJECT.decode(data)


@lru_cache(maxsize=64)
def _known_object(data: bytes) -> dict[str, Any]:
    return _OBJECT.decode(data)


def _are_sound(files: tuple[FileEntry, ...], version: int) -> bool:
    """True when `ManifestFile` and the checks of paths and chunks would find nothing."""
    if not _are_safe(tuple([file.path for file in files])):
        return False
    digests = "\n".join([file.digest for file in files])
    # Of as many lines as files, each of them a digest: none of them holds a line end itself.
    if files and (len(digests) != len(files) * (_DIGEST_LENGTH + 1) - 1 or not re.fullmatch(_DIGESTS, digests)):
        return False
    large = [file for file in files if file.chunks or file.size > CHUNK_BYTES]
    return all(file.chunks_fit and re.fullmatch(_HEXADECIMAL, file.chunks) for file in large) and not (
        version == 1 and any(file.chunks for file in large)
    )


_DIGEST_LENGTH = len(f"{ALGORITHM}:") + CHUNK_DIGITS
_DIGESTS = r"xxh3-128:[0-9a-f]{32}(?:\nxxh3-128:[0-9a-f]{32})*"
_HEXADECIMAL = r"[0-9a-f]*"


def _parse(data: bytes, origin: str) -> Manifest:
    """The manifest step by step, for an error that says what is wrong."""
    try:
        fields = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestInvalid(f"{origin} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ManifestInvalid(f"{origin} is not a JSON object")
    fields = cast("dict[str, Any]", fields)
    # The tail is the same in every format, so that a flipped bit in the version can't pass for a newer one.
    if data[-_TAIL_LENGTH:] != _tail(data[:-_TAIL_LENGTH]):
        raise ManifestInvalid(f"{origin} was changed after it was written: its digest does not match")
    _check_version(fields, origin)
    try:
        return msgspec.convert(fields, Manifest)
    except msgspec.ValidationError as error:
        raise ManifestInvalid(f"{origin} has a wrong shape: {error}") from error


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `keepstep.json`, its texts without the indentation of the code."""
    schema = msgspec.json.schema(Manifest)
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    return schema


def _tail(body: bytes) -> bytes:
    return b',\n "digest": "' + digest_of(body).encode() + b'"\n}\n'


_TAIL_LENGTH = len(_tail(b""))


def _check_version(fields: dict[str, Any], origin: str) -> None:
    version = fields.get("format")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise LayoutTooNew(
            f"{origin} has format {version}; this keepstep reads up to {FORMAT_VERSION}",
            hint="Upgrade it: pip install -U keepstep",
        )


def digest_in(data: bytes) -> str:
    """The digest that a manifest's bytes end in; of bytes that end otherwise, their own."""
    said = data[-_TAIL_LENGTH:].split(b'"')
    return said[3].decode() if data[-_TAIL_LENGTH:] == _tail(data[:-_TAIL_LENGTH]) else digest_of(data)


_UNSAFE_PARTS = frozenset({"", ".", ".."})
"""Parts of absolute paths, of paths that leave their directory, and of second spellings of a path."""


def _are_safe(paths: tuple[str, ...]) -> bool:
    """True when each is safe and stands once. Asked once for the same names, which thousands of manifests have."""
    return _known_safe(paths) if len(paths) <= MOST_SHARED else _known_safe.__wrapped__(paths)


@lru_cache(maxsize=256)
def _known_safe(paths: tuple[str, ...]) -> bool:
    return len(set(paths)) == len(paths) and all(map(_is_safe, paths))


def _is_safe(path: str) -> bool:
    """True for a POSIX path that stays in its directory, spelled in its one way; the manifest has no entry of its own.

    Plain text: a PurePosixPath for every file of thousands of manifests costs more than their JSON.
    """
    unsafe = "\\" in path or "\0" in path or not _UNSAFE_PARTS.isdisjoint(path.split("/"))
    return not unsafe and path != MANIFEST_NAME and len(path) <= LONGEST_PATH


def _check_paths(files: list[ManifestFile], origin: str) -> None:
    seen: set[str] = set()
    for file in files:
        if not _is_safe(file.path):
            raise ManifestInvalid(f"{origin} names a file outside of its checkpoint: {file.path!r}")
        if file.path in seen:
            raise ManifestInvalid(f"{origin} names a file twice: {file.path!r}")
        seen.add(file.path)


def _check_chunks(files: tuple[FileEntry, ...], version: int, origin: str) -> None:
    for file in files:
        if not file.chunks_fit or (file.chunks and version == 1):
            raise ManifestInvalid(f"{origin} has chunk digests of {file.path!r} that do not fit its size or format")


def _check_seal(manifest: Manifest, files: tuple[FileEntry, ...], origin: str) -> None:
    if wrong := _what_of_the_seal(manifest, files):
        raise ManifestInvalid(f"{origin} {wrong}")


def _what_of_the_seal(manifest: _Head[Any], files: tuple[FileEntry, ...]) -> str:
    """What is wrong with `by` and `lost`; nothing in most manifests, which have neither."""
    if manifest.format < 3 and (manifest.lost or any(file.by for file in files)):
        return "has members that came with format 3"
    if not manifest.lost:
        return ""
    if manifest.kind != "weights" or not all(map(_is_safe, manifest.lost)):
        return "has lost files that are none of a checkpoint that holds weights"
    return "lists a file that it has lost" if not set(manifest.lost).isdisjoint(f.path for f in files) else ""


def _file_out(file: FileEntry) -> dict[str, Any]:
    fields: dict[str, Any] = {"path": file.path, "size": file.size, "digest": file.digest}
    fields |= {"chunks": file.chunks} if file.chunks else {}
    return fields | {"by": file.by} if file.by else fields


def _utc(created: datetime) -> datetime:
    """Raises OverflowError for the first and the last hours that there are, in some time zones."""
    if created.tzinfo is UTC:
        return created
    return created.astimezone(UTC) if created.tzinfo else created.replace(tzinfo=UTC)


def _checkpoint(
    manifest: _Head[Any],
    files: tuple[FileEntry, ...],
    said: tuple[dict[str, Any], dict[str, Any]],
    path: Path | None,
    state: State,
) -> Checkpoint:
    return Checkpoint(
        run_id=manifest.run_id,
        generation=manifest.generation,
        timeline=manifest.timeline,
        parent=manifest.parent,
        step=manifest.step,
        epoch=manifest.epoch,
        kind=Kind(manifest.kind),
        created=_utc(manifest.created),
        metrics={name: float(value) for name, value in manifest.metrics.items()},
        files=files,
        written_by=said[0],
        fingerprint=said[1],
        state=state,
        path=path,
        lost=tuple(manifest.lost),
    )
