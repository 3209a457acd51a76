"""A trial: one course played with an adapter, by as many processes as it takes, and what they left on the disk."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from keepstep.model import Checkpoint, Kind
from keepstep.run import Run
from keepstep.testing.integration_adapter import IntegrationAdapter
from keepstep.testing.integration_course import Course, Effect, Outcome, Strike

SHOWN = 3000
"""Characters of what a process printed that a failed case shows."""


class Trial:
    """`settings` are those of the course; `home` is made, and holds the run directory unless one is given."""

    def __init__(
        self, adapter: IntegrationAdapter, home: Path, *, directory: Path | None = None, **settings: Any
    ) -> None:
        home.mkdir(exist_ok=True)
        self.adapter = adapter
        self.course = Course(directory=str(directory or home / "run"), home=str(home), **settings)

    # -- training ----------------------------------------------------------------------------------------

    def train(self, strike: Strike | None = None) -> int:
        """Play the course in a new process, resuming where there is something to; returns its exit code."""
        code = self.adapter.train(replace(self.course, strike=strike))
        if strike is not None:
            assert self.course.struck.exists(), f"no strike {strike.effect}: it saved otherwise\n{self.said(code)}"
            assert strike.effect is not Effect.KILL or code != 0, "it was killed and ended well all the same"
        return code

    def ends(self) -> Outcome:
        """Train to the end; returns what it left."""
        code = self.train()
        assert code == 0, f"the training did not end well\n{self.said(code)}"
        return self.outcome

    @contextmanager
    def held(self, strike: Strike) -> Generator[Future[int]]:
        """A training that stands still in a save for as long as the block lasts; then it goes on, to its exit code."""
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(self.train, strike)
            try:
                while not (self.course.struck.exists() or ending.done()):
                    time.sleep(0.01)
                if ending.done():
                    ending.result()
                yield ending
            finally:
                self.course.released.touch()

    def said(self, code: int) -> str:
        """How a process ended, and the end of what it printed."""
        text = self.course.log.read_text(errors="replace") if self.course.log.exists() else "nothing"
        return f"exit code {code}; it printed:\n{text[-SHOWN:]}"

    # -- what is left ------------------------------------------------------------------------------------

    @property
    def outcome(self) -> Outcome:
        """What the process that ended well left."""
        return Outcome.read(self.course.outcome)

    @property
    def run(self) -> Run:
        """The run, as it is on the disk now."""
        return Run.open(self.course.directory)

    @property
    def saved(self) -> list[int]:
        """Every step that was ever committed whole, in order."""
        events = self.events("committed")
        return [event["step"] for event in events if event["kind"] == Kind.FULL.value]

    @property
    def receipt(self) -> Mapping[str, Any]:
        """The receipt of the last resume, as plain values (`Receipt.to_json`)."""
        found = self.events("resumed")
        assert found, "no receipt in the event log: it was not resumed, or noted none (Checkpointer.note_resumed)"
        return found[-1]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of that name, oldest first."""
        return [event for event in self.run.events.read() if event["event"] == name]

    def stock_weights(self, copy: Path | None = None) -> dict[str, dict[str, str]]:
        """What stock tools read from each committed checkpoint, by its name; in a copy of the run where it is given."""
        root = copy or Path(self.course.directory)
        return {c.name: dict(self.adapter.read_with_stock_tools(root / c.name)) for c in self.run.checkpoints}

    # -- what must hold ----------------------------------------------------------------------------------

    def assert_holds(self, *, newest: int) -> Checkpoint:
        """Whatever is called a checkpoint is whole, and that of step `newest` is what a resume takes; returns it."""
        run = self.run
        assert run.foreign == (), f"half a checkpoint can be seen: {run.foreign}"
        broken = [found.summary() for c in run.checkpoints if not (found := run.verify(c)).ok]
        assert broken == []
        assert all(self.stock_weights().values()), "stock tools read no weights from a checkpoint"
        full = [c for c in run.checkpoints if c.resumable]
        assert full, "no checkpoint is left to resume from"
        assert full[-1].step == newest, f"a resume takes step {full[-1].step}, not {newest}"
        return full[-1]

    def assert_ended_like(self, reference: Trial) -> None:
        """State and log are those of the reference, bit for bit."""
        found = list(self.outcome.differences(reference.outcome))
        assert not found, f"it ended otherwise than the uninterrupted training (second): {'; '.join(found)}"

    def assert_left_like(self, reference: Trial) -> None:
        """It ended like the reference, and the same checkpoints are on the disk."""
        self.assert_ended_like(reference)
        mine, its = self.stock_weights(), reference.stock_weights()
        assert mine.keys() == its.keys(), f"{sorted(mine)} are left, {sorted(its)} by the uninterrupted training"
        other = [name for name in mine if mine[name] != its[name]]
        assert not other, f"other weights in {other} than those of the uninterrupted training"
