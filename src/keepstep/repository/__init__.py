"""Checkpoints in one store: manifest, catalog, stage, commit, seal, verify, set aside, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepstep.faces import handing_on

if TYPE_CHECKING:
    from keepstep.repository.catalog import Foreign, Listing
    from keepstep.repository.linking import copy_file
    from keepstep.repository.loadable import Loaders, Need, lack_of, need_of, need_of_path
    from keepstep.repository.manifest import MANIFEST_NAME, digest_of
    from keepstep.repository.manifest import decode as decode_manifest
    from keepstep.repository.manifest import encode as encode_manifest
    from keepstep.repository.previous import PreviousRun, only_records, previous_runs
    from keepstep.repository.recovery import is_directory
    from keepstep.repository.repository import Dispose, Finish, Repository, Staging
    from keepstep.repository.sealing import Changes, Look, Rewritten
    from keepstep.repository.verification import (
        Check,
        Findings,
        OnBytes,
        Problem,
        Verification,
        check_file,
        file_digest,
        is_litter,
        missing_files,
        sealed,
        verify_files,
    )

__all__ = [
    "MANIFEST_NAME",
    "Changes",
    "Check",
    "Dispose",
    "Findings",
    "Finish",
    "Foreign",
    "Listing",
    "Loaders",
    "Look",
    "Need",
    "OnBytes",
    "PreviousRun",
    "Problem",
    "Repository",
    "Rewritten",
    "Staging",
    "Verification",
    "check_file",
    "copy_file",
    "decode_manifest",
    "digest_of",
    "encode_manifest",
    "file_digest",
    "is_directory",
    "is_litter",
    "lack_of",
    "missing_files",
    "need_of",
    "need_of_path",
    "only_records",
    "previous_runs",
    "sealed",
    "verify_files",
]

_HOMES = {
    "catalog": ("Foreign", "Listing"),
    "linking": ("copy_file",),
    "loadable": ("Loaders", "Need", "lack_of", "need_of", "need_of_path"),
    "manifest": ("MANIFEST_NAME", "decode_manifest", "digest_of", "encode_manifest"),
    "previous": ("PreviousRun", "only_records", "previous_runs"),
    "recovery": ("is_directory",),
    "repository": ("Dispose", "Finish", "Repository", "Staging"),
    "sealing": ("Changes", "Look", "Rewritten"),
    "verification": (
        "Check", "Findings", "OnBytes", "Problem", "Verification", "check_file", "file_digest", "is_litter",
        "missing_files", "sealed", "verify_files",
    ),
}  # fmt: skip
_RENAMED = {"decode_manifest": "decode", "encode_manifest": "encode"}
__getattr__, __dir__ = handing_on(__name__, _HOMES, _RENAMED)
