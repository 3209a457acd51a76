"""Every error of keepstep: what happened, a hint that names the way out, and the exit code of its kind."""

from __future__ import annotations

import errno as numbers
from functools import partial
from typing import Any, ClassVar

FULL = frozenset({numbers.ENOSPC, numbers.EDQUOT})
"""What systems say when bytes, inodes or a quota run out."""


class KeepstepError(Exception):
    """Base of all errors that keepstep raises on purpose.

    `message` says what happened and to which thing; `hint` (may be empty) says what to do.
    `exit_code` is what the command line exits with; `code` is a stable name for machines.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class PolicyError(KeepstepError, ValueError):
    """A retention policy, a metric or its direction can't be understood."""

    code = "policy"
    exit_code = 2


class SettingsError(KeepstepError, ValueError):
    """A setting of the trainer contradicts checkpoint management."""

    code = "settings"
    exit_code = 2


class QuantityError(SettingsError):
    """A size, a duration or a number of parameters can't be understood."""

    code = "quantity"
    exit_code = 2


class RunNotFound(KeepstepError, FileNotFoundError):
    """The directory holds no run."""

    code = "run-not-found"
    exit_code = 3


class NotManaged(KeepstepError):
    """The run was written by others: keepstep reads it, and changes nothing in it."""

    code = "not-managed"
    exit_code = 2


class NotAtHome(KeepstepError):
    """What was named is a run's mirror: it is read, and changed by its run's syncs alone."""

    code = "not-at-home"
    exit_code = 2


class CheckpointNotFound(KeepstepError, FileNotFoundError, ValueError):
    """No checkpoint answers to the reference, or none can be resumed from."""

    code = "checkpoint-not-found"
    exit_code = 3


class ReferenceInvalid(KeepstepError, ValueError, TypeError):
    """What is given as a reference can't be one: an empty text, a fraction, an address of another machine."""

    code = "reference"
    exit_code = 2


class CheckpointCorrupt(KeepstepError):
    """A checkpoint's bytes are not what its manifest says."""

    code = "checkpoint-corrupt"
    exit_code = 4


class ManifestInvalid(CheckpointCorrupt, ValueError):
    """A manifest can't be read: not JSON, wrong shape, wrong digest, or a newer format."""

    code = "manifest-invalid"


class RunLocked(KeepstepError):
    """Another process is writing to the run."""

    code = "run-locked"
    exit_code = 5


class RunInUse(KeepstepError, FileExistsError):
    """A fresh start was asked for in a directory that already holds checkpoints."""

    code = "run-in-use"
    exit_code = 6


class ResumeRefused(KeepstepError, ValueError):
    """A resume would fail, train nothing or something else, or is from one that is damaged or weights only."""

    code = "resume-refused"
    exit_code = 7


class BestNotLoaded(KeepstepError, ValueError):
    """The training is over and saved, but the best that was to be loaded at its end did not come back as saved."""

    code = "best-not-loaded"
    exit_code = 10


class StorageError(KeepstepError, OSError):
    """Writing a checkpoint failed; the errno of the cause is kept."""

    code = "storage"
    exit_code = 8

    def __init__(self, message: str, *, hint: str = "", errno: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError's own forgets an errno that was not among its arguments.
        return partial(type(self), hint=self.hint, errno=self.errno), (self.message,)

    @property
    def is_full(self) -> bool:
        """True where room was short: bytes, inodes or a quota."""
        return self.errno in FULL


class AccessDenied(KeepstepError, PermissionError):
    """This user may not read, or write, what it takes; `message` says which file or directory, and whose it is."""

    code = "access-denied"
    exit_code = 8

    def __init__(self, message: str, *, hint: str = "", path: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.errno, self.strerror = numbers.EACCES, message
        self.filename = None if path is None else str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), hint=self.hint, path=self.filename), (self.message,)


class DiskFull(StorageError):
    """There is no room for a checkpoint, and no more may be given up for it."""

    code = "disk-full"


class ReadOnly(StorageError):
    """What was to be written lies on a file system that is mounted read-only."""

    code = "read-only"


class MirrorUnavailable(StorageError):
    """A mirror doesn't answer, refuses, or is full; the run at home is untouched."""

    code = "mirror-unavailable"


class MirrorOfAnother(KeepstepError):
    """The mirror belongs to another run, or another writer has taken it over since."""

    code = "mirror-of-another"
    exit_code = 5


class RankLost(KeepstepError, RuntimeError):
    """Another process of the training is gone, while all of them saved or loaded together."""

    code = "rank-lost"


class NobodyTrains(KeepstepError):
    """Something is asked of a training, and there is none."""

    code = "nobody-trains"
    exit_code = 11


class NotAnswered(KeepstepError, TimeoutError):
    """A training was asked for something, and has not answered in time, or is gone."""

    code = "not-answered"


class Preempted(SystemExit):
    """A training was stopped early, and is to be started again: it ends the process with 75 (EX_TEMPFAIL).

    `message` says why, and where a resume goes on; `preemption` has the same as values. A SystemExit, so that no
    script goes on with a model that is not trained to its end.
    """

    EXIT_CODE: ClassVar[int] = 75

    def __init__(self, message: str, preemption: Any = None) -> None:
        super().__init__(self.EXIT_CODE)
        self.message = message
        self.preemption = preemption

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.preemption)


class LayoutTooNew(KeepstepError):
    """The run was written by a newer format than this version reads."""

    code = "layout-too-new"
    exit_code = 9
