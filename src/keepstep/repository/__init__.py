"""Checkpoints in one store: manifest, catalog, stage, commit, verify, set aside, remove."""

from keepstep.repository.catalog import Foreign, Listing
from keepstep.repository.manifest import MANIFEST_NAME
from keepstep.repository.repository import Dispose, Finish, Repository, Staging
from keepstep.repository.verification import (
    Check,
    OnBytes,
    Problem,
    Verification,
    check_file,
    file_digest,
    verify_files,
)

__all__ = [
    "MANIFEST_NAME",
    "Check",
    "Dispose",
    "Finish",
    "Foreign",
    "Listing",
    "OnBytes",
    "Problem",
    "Repository",
    "Staging",
    "Verification",
    "check_file",
    "file_digest",
    "verify_files",
]
