"""The record of a commit in a mirror: the manifest, byte for byte, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from keepstep.errors import CheckpointCorrupt, LayoutTooNew, ManifestInvalid
from keepstep.layout import NOT_JSON
from keepstep.mirror.layout import CommitName, home_in
from keepstep.model import Checkpoint
from keepstep.repository import decode_manifest, digest_of, encode_manifest

FORMAT_VERSION = 1
SIZE_LIMIT = 128 * 2**20
"""Bytes above which a record is refused unread: a manifest of the most files, as a JSON text."""


class _Content(msgspec.Struct):
    format: int
    data: str
    manifest: str
    digest: str


@dataclass(frozen=True, slots=True)
class Record:
    """One commit: the checkpoint as its manifest has it, the directory of keys that its files lie in, and its name."""

    name: CommitName
    checkpoint: Checkpoint
    home: str

    @property
    def key(self) -> str:
        """Where the record lies."""
        return self.name.key


def encode(checkpoint: Checkpoint, home: str) -> bytes:
    """The bytes of a record."""
    manifest = encode_manifest(checkpoint).decode()
    return msgspec.json.encode(_Content(FORMAT_VERSION, home, manifest, _seal(FORMAT_VERSION, home, manifest))) + b"\n"


def decode(name: CommitName, data: bytes, origin: str) -> Record:
    """The record that some bytes are; `origin` names the mirror in errors. Raises ManifestInvalid, LayoutTooNew."""
    where = f"{origin}/{name.key}"
    try:
        content = msgspec.json.decode(data, type=_Content)
    except NOT_JSON as error:
        raise ManifestInvalid(f"{where} is damaged: {error}") from error
    if content.digest != _seal(content.format, content.data, content.manifest):
        raise ManifestInvalid(f"{where} was changed after it was written: its digest does not match")
    if content.format > FORMAT_VERSION:
        raise LayoutTooNew(
            f"{where} has format {content.format}; this keepstep reads up to {FORMAT_VERSION}",
            hint="Upgrade it: pip install -U keepstep",
        )
    checkpoint = decode_manifest(content.manifest.encode(), origin=where)
    if checkpoint.generation != name.generation:
        raise ManifestInvalid(f"{where} is of generation {checkpoint.generation}, not of that of its key")
    if home_in(content.data) != content.data:
        raise CheckpointCorrupt(f"{where} names no place for its files: {content.data!r}")
    return Record(name, checkpoint, content.data)


def _seal(version: int, home: str, manifest: str) -> str:
    """The digest of all that a record says, the same in every format."""
    return digest_of(f"{version}\n{home}\n{manifest}".encode())
