"""What obstore's errors mean, which are many lines of what happened inside: what the server said, and what to do."""

from __future__ import annotations

import re

from keepstep.errors import MirrorUnavailable
from keepstep.mirror.objects import Garbled

_STATUS = re.compile(r"status code: (\d{3}[A-Za-z -]*)")
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>(?:\s*<Message>([^<]{1,300}))?")
_ASKING = re.compile(r"Error performing (\S+) \S+ in \S+")
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"}
_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed"}
_CHANGED = {
    "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody",
    "Md5Mismatch", "Crc64Mismatch",
}  # fmt: skip


def unavailable(url: str, bucket: str, key: str, error: BaseException, *, in_bucket: bool = False) -> MirrorUnavailable:
    """The error of a mirror that one of obstore's is. `in_bucket`: whatever is missing, it is the bucket."""
    status, code, said = _parts(str(error))
    if code in _NO_BUCKET or (in_bucket and not code and status.startswith("404")):
        return MirrorUnavailable(
            f"{url} can't be used: there is no bucket {bucket!r}",
            hint="Make it, or mend the address: a mirror makes no bucket.",
        )
    what = f"{url}: {key or 'its list'}: {said}"
    if code in _CHANGED:
        return Garbled(f"{what} (the bytes were changed on their way)")
    if code == "NoSuchUpload":
        return Garbled(f"{what} (the upload was forgotten there)")
    if status.startswith(("401", "403")) or code in _EXPIRED:
        return MirrorUnavailable(
            f"{url} refuses: {key or 'its list'}: {said}",
            hint="Look at its credentials, and at what they may: list, read, write and delete. The run is untouched.",
        )
    return MirrorUnavailable(
        what, hint="The run itself is untouched; what is missing in the mirror goes there with the next sync."
    )


def says_not_found(error: BaseException) -> bool:
    """True where it is a server that says so."""
    return _parts(str(error))[0].startswith("404")


def beyond_its_end(error: BaseException) -> bool:
    """True where an object has fewer bytes than a range asks for, or the server says so."""
    text = str(error)
    return "UnexpectedRange" in text or _parts(text)[0].startswith("416")


def knows_no_ranges(error: BaseException) -> bool:
    """True where a server answered a range with everything."""
    return "NotPartial" in str(error)


def _parts(text: str) -> tuple[str, str, str]:
    """The status and the code that a server gave, empty where it gave none, and all of it in words."""
    status, code = _STATUS.search(text), _CODE.search(text)
    answered = status[1].strip() if status else ""
    if code is not None:
        words = f"{answered}: {code[1]}{f': {code[2]}' if code[2] else ''}"
    else:
        line = next(iter(text.splitlines()), "no answer").strip()
        words = _ASKING.sub(r"\1", line)[:300]
    return answered, code[1] if code else "", words
