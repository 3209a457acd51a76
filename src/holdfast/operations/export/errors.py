"""How an export may end without one."""

from __future__ import annotations

from holdfast.errors import HoldfastError


class ExportRefused(HoldfastError):
    """An export that can't be made as asked; nothing was written."""

    code = "export-refused"


class ExportUnequal(HoldfastError):
    """What was about to be published differs from its source, or does not load; it was thrown away."""

    code = "export-unequal"


class PushFailed(HoldfastError):
    """An export is on this disk, but did not reach the hub."""

    code = "push-failed"
