"""What a supervisor tells: a line on stderr, a record beside the log, and a command that gets the event as JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepstep.supervision.processes import unblock

NAME = "keepstep run: "
ATTEMPTS = "attempts.jsonl"
_NOTIFY_SECONDS = 10.0


class Teller:
    """Tells of events; `place` is the directory that has the records, once there is one."""

    def __init__(self, say: Callable[[str], None], notify: str | None) -> None:
        self._say = say
        self._notify = notify
        self._early: list[bytes] = []
        self.place: Path | None = None

    def line(self, text: str) -> None:
        """A line for whoever looks on."""
        for number, line in enumerate(text.splitlines()):
            self._say(f"{NAME}{line}" if number == 0 else f"  {line}")

    def event(self, event: str, text: str = "", **fields: Any) -> None:
        """It is recorded, told to `--notify`, and its text is said. What fails of that ends nothing."""
        if text:
            self.line(text)
        record = {"time": datetime.now(UTC).isoformat(), "event": event, **fields, "text": text}
        data = json.dumps(record).encode()
        self._record(data + b"\n")
        if self._notify:
            self._call(self._notify, data)

    def settle_in(self, place: Path) -> None:
        """Have the records there from now on, those so far included."""
        self.place, early, self._early = place, self._early, []
        for line in early:
            self._record(line)

    def _record(self, line: bytes) -> None:
        if self.place is None:
            self._early.append(line)
            return
        with suppress(OSError):
            self.place.mkdir(parents=True, exist_ok=True)
            with (self.place / ATTEMPTS).open("ab") as file:
                file.write(line)

    def _call(self, command: str, data: bytes) -> None:
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                input=data,
                capture_output=True,
                timeout=_NOTIFY_SECONDS,
                check=False,
                preexec_fn=unblock,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self.line(f"--notify: {error}")
            return
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            self.line(f"--notify: exit code {done.returncode} {' '.join(last)}".rstrip())
