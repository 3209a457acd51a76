"""Worker processes of the demonstration and the events that they send."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from keepstep.demo.worker import Job
from keepstep.errors import KeepstepError

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


class Worker:
    """A running worker: a real process of its own, its events, and its log file."""

    def __init__(self, job: Job, log: Path) -> None:
        self.log = log
        reading, writing = os.pipe()
        environment = {
            **os.environ,
            "KEEPSTEP_DEMO_EVENTS": str(writing),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }
        command = [sys.executable, "-m", "keepstep.demo.worker", json.dumps(asdict(job))]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, pass_fds=[writing], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        os.close(writing)
        self.events: IO[bytes] = os.fdopen(reading, "rb", buffering=0)
        self._rest = b""

    def take(self) -> list[Event] | None:
        """Events that have arrived, None when the worker has closed its end."""
        data = self.events.read(65536)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def finish(self, *, killed: bool) -> None:
        """Wait for the end. Raises KeepstepError, with the log's last lines, when it is not the expected one."""
        code = self.process.wait()
        self.events.close()
        if code != (-9 if killed else 0):
            tail = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
            raise KeepstepError(
                f"a training process of the demonstration ended with exit code {code}",
                hint="Its last lines:\n    " + "\n    ".join(tail),
            )

    def stop(self) -> None:
        """End it at once, if it runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def listen(workers: dict[Worker, OnEvent]) -> None:
    """Hand each worker's events to its function until all have closed their ends."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.events, selectors.EVENT_READ, worker)
        while selector.get_map():
            for key, _ in selector.select():
                worker: Worker = key.data
                events = worker.take()
                if events is None:
                    selector.unregister(worker.events)
                    continue
                for event in events:
                    workers[worker](event)
