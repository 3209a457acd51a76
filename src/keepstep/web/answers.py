"""Answers of the API: strict JSON, compressed where that pays, and errors in one shape."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from keepstep.errors import (
    CheckpointCorrupt,
    CheckpointNotFound,
    KeepstepError,
    NobodyTrains,
    PolicyError,
    RunLocked,
    RunNotFound,
    SettingsError,
)
from keepstep.operations.removing.pruning import PlanChanged
from keepstep.strict import changed, valid_text
from keepstep.web.lane import NoAnswer

WORTH_PACKING = 4_000
"""Bytes from which an answer is compressed for a client that takes gzip."""


class Refused(KeepstepError):
    """A request that the server does not carry out, with its HTTP status."""

    code = "refused"

    def __init__(self, status: int, message: str, *, hint: str = "", code: str = "refused") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.name = code


@dataclass(frozen=True, slots=True)
class Packed:
    """A body that is answered more than once: as it is, and compressed."""

    plain: bytes
    small: bytes | None
    media_type: str = "application/json"

    @classmethod
    def of(cls, plain: bytes, media_type: str = "application/json") -> Packed:
        """The body with its compressed form, where that pays."""
        small = gzip.compress(plain, compresslevel=1, mtime=0) if len(plain) >= WORTH_PACKING else None
        return cls(plain, small, media_type)

    def answer(self, request: Request, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        """The response in the form that the client takes."""
        more = {"Vary": "Accept-Encoding", **(headers or {})}
        if self.small is not None and _takes_gzip(request):
            more["Content-Encoding"] = "gzip"
            return Response(self.small, status, more, self.media_type)
        return Response(self.plain, status, more, self.media_type)


def encode(value: Any) -> bytes:
    """Strict JSON: numbers that it lacks become null; bytes of names that are no UTF-8 are shown escaped."""
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:
        return msgspec.json.encode(changed(value, _printable), enc_hook=str)


def answer(request: Request, value: Any, status: int = 200) -> Response:
    """A value as JSON."""
    return Packed.of(encode(value)).answer(request, status)


def error_answer(error: KeepstepError) -> Response:
    """An error as the page shows it: code, message, hint; with the HTTP status of its kind."""
    code = error.name if isinstance(error, Refused) else error.code
    body = {"error": {"code": code, "message": error.message, "hint": error.hint or None}}
    return Response(encode(body), status_of(error), media_type="application/json")


def as_error(error: OSError) -> KeepstepError:
    """An error of the system as one of ours."""
    what = error.strerror or str(error) or type(error).__name__
    return Refused(500, f"{what}: {error.filename}" if error.filename else what, code="storage")


def status_of(error: KeepstepError) -> int:
    """The HTTP status of an error."""
    match error:
        case Refused():
            return error.status
        case RunNotFound() | CheckpointNotFound():
            return 404
        case PolicyError() | SettingsError():
            return 400
        case RunLocked() | NobodyTrains() | PlanChanged() | CheckpointCorrupt():
            return 409
        case NoAnswer():
            return 504
        case _:
            return 500


def _takes_gzip(request: Request) -> bool:
    offered = request.headers.get("accept-encoding", "")
    return any(item.partition(";")[0].strip().lower() == "gzip" and "q=0" not in item for item in offered.split(","))


def _printable(value: Any) -> Any:
    return valid_text(value) if isinstance(value, str) else value
