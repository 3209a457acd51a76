"""Many runs at once, managed or not: a row for each, without a look into every file."""

from keepstep.operations.many.rows import BestRow, Resumable, RunRow, Survey

__all__ = ["BestRow", "Resumable", "RunRow", "Survey"]
