"""Checkpoints evaluated by a command, several at once, beside a training that goes on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any

from keepstep import layout
from keepstep.errors import SettingsError
from keepstep.model import Checkpoint
from keepstep.operations.evaluating.child import PLACE, Child, Ended
from keepstep.run import Reference, Run
from keepstep.stores import denied, require_writable
from keepstep.strict import finite_or_name

WHY = "being evaluated"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What became of one checkpoint; `metrics` are recorded where `ok`."""

    checkpoint: Checkpoint
    ended: Ended

    @property
    def ok(self) -> bool:
        """True where metrics were found, and recorded."""
        return not self.ended.problem

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; seconds."""
        return {
            "step": self.checkpoint.step,
            "generation": self.checkpoint.generation,
            "path": str(self.checkpoint.path),
            "ok": self.ok,
            "exit_code": self.ended.exit_code,
            "problem": self.ended.problem,
            "metrics": {name: finite_or_name(value) for name, value in self.ended.metrics.items()},
            "seconds": round(self.ended.seconds, 3),
            "last_lines": list(self.ended.last_lines),
        }


def to_evaluate(run: Run, references: Sequence[Reference], *, pending: bool) -> tuple[Checkpoint, ...]:
    """The checkpoints that are named, else all; with `pending` only those without a value of the run's metric, or
    without any where it has none. Those that are known to be damaged are left out of all. Raises CheckpointNotFound.
    """
    named = [run.find(reference) for reference in references]
    chosen = named or [checkpoint for checkpoint in run.checkpoints if not checkpoint.spoiled]
    metric = run.policy.metric
    if pending:
        chosen = [c for c in chosen if (metric.value(c.metrics) is None if metric else not c.metrics)]
    return tuple({checkpoint.generation: checkpoint for checkpoint in chosen}.values())


def check_command(command: Sequence[str]) -> None:
    """Raises SettingsError for a command that no checkpoint would reach."""
    if not command:
        raise SettingsError("there is no command", hint="Give it behind --: keepstep evaluate RUN -- python eval.py {}")
    if not any(PLACE in part for part in command):
        raise SettingsError(
            "the command has no {}, which stands for the checkpoint's directory",
            hint=f"For example: keepstep evaluate RUN -- {' '.join(command)} {{}}",
        )


def evaluate(
    run: Run,
    checkpoints: Sequence[Checkpoint],
    command: Sequence[str],
    *,
    jobs: int = 1,
    timeout: float | None = None,
    on_start: Callable[[Checkpoint], None] = lambda _: None,
) -> Generator[Evaluated]:
    """Run the command for each checkpoint, `jobs` at once; yields what became of each as soon as it is recorded.

    Each is kept in place while it is read, whatever a training prunes meanwhile. Whoever breaks off, by an exception
    or by closing the iterator, ends what runs; what was yielded stays recorded.
    """
    check_command(command)
    if (records := run.path / layout.META).is_dir():
        require_writable(records)  # what an hour of evaluation finds must have a place
    work = _Work(run, command, timeout, on_start)
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="keepstep-evaluate")
    try:
        futures: list[Future[Evaluated]] = [pool.submit(partial(work.do, one)) for one in checkpoints]
        for future in as_completed(futures):
            done = future.result()
            if done.ok:
                try:
                    run.record_metrics(done.checkpoint.generation, done.ended.metrics)
                except PermissionError as error:
                    raise denied(error.filename or run.path, error, write=True) from error
            yield done
    finally:
        work.end()
        pool.shutdown(cancel_futures=True)


class _Work:
    def __init__(
        self, run: Run, command: Sequence[str], timeout: float | None, on_start: Callable[[Checkpoint], None]
    ) -> None:
        self._run, self._command, self._timeout, self._on_start = run, command, timeout, on_start
        self._children: set[Child] = set()
        self._ended = False

    def do(self, checkpoint: Checkpoint) -> Evaluated:
        with self._run.readers.reading([checkpoint.generation], WHY):
            where = checkpoint.path
            if self._ended or where is None or not where.is_dir():
                return Evaluated(checkpoint, Ended(0, "it went away before its turn", {}, (), 0.0))
            self._on_start(checkpoint)
            try:
                child = Child(self._command, where)
            except OSError as error:
                problem = f"{self._command[0]} can't be started: {error.strerror or error}"
                return Evaluated(checkpoint, Ended(127, problem, {}, (), 0.0))
            self._children.add(child)
            if self._ended:
                child.end()
            try:
                return Evaluated(checkpoint, child.wait(self._timeout))
            finally:
                self._children.discard(child)

    def end(self) -> None:
        self._ended = True
        for child in list(self._children):
            child.end()
