"""Why a restore is not carried out."""

from __future__ import annotations

from keepstep.errors import KeepstepError


class RestoreRefused(KeepstepError):
    """What is to come back does not hold, is in the run already, or would leave nothing to resume from."""

    code = "restore-refused"


class RestoreChanged(KeepstepError):
    """The run changed between showing a restore and carrying it out."""

    code = "restore-changed"
