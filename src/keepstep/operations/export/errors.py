"""How an export may end without one."""

from __future__ import annotations

from keepstep.errors import KeepstepError


class ExportRefused(KeepstepError):
    """An export that can't be made as asked; nothing was written."""

    code = "export-refused"


class Unreadable(ExportRefused):
    """A file of what is to be exported is not what its name says."""

    code = "export-unreadable"


class ExportUnequal(KeepstepError):
    """What was about to be published differs from its source, or does not load; it was thrown away."""

    code = "export-unequal"


class PushFailed(KeepstepError):
    """An export is on this disk, but did not reach the hub."""

    code = "push-failed"
