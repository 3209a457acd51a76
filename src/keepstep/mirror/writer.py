"""Who may write to a mirror: each process claims an epoch, and a later claim ends an earlier one."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from keepstep.errors import MirrorOfAnother
from keepstep.mirror import layout
from keepstep.mirror.mirror import Mirror


@dataclass(slots=True)
class Writer:
    """A claim of this process. `exclusive` is False where the place lets two make the same claim, and can't fence;
    `anew` counts how often the mirror had been emptied, and was claimed anew.
    """

    mirror: Mirror
    run_id: str
    epoch: int
    token: str
    exclusive: bool
    anew: int = 0

    @classmethod
    def claim(cls, mirror: Mirror, run_id: str) -> Writer:
        """Claim the next epoch, and end those of others. Raises MirrorOfAnother, MirrorUnavailable.

        The claim is its own probe: made once more with other bytes it must fail, else the place ignores the condition.
        """
        mirror.begin(run_id)
        objects = mirror.objects
        token = uuid.uuid4().hex[:12]
        while True:
            epoch = _highest(mirror) + 1
            key = layout.writer_key(epoch)
            if not objects.create(key, _claim(epoch, token, "claim")):
                continue
            exclusive = not objects.create(key, _claim(epoch, token, "probe"))
            if not exclusive:
                objects.create(layout.writer_key(epoch, token), _claim(epoch, token, "claim"))
            return cls(mirror, run_id, epoch, token, exclusive)

    def check(self) -> None:
        """Raises MirrorOfAnother where somebody has claimed the mirror since. One that was emptied is claimed anew."""
        highest = _highest(self.mirror)
        if highest < self.epoch:
            self.mirror.begin(self.run_id)
            self.mirror.objects.create(layout.writer_key(self.epoch), _claim(self.epoch, self.token, "claim"))
            self.anew += 1
        if highest > self.epoch:
            raise MirrorOfAnother(
                f"{self.mirror.url} has been taken over by a later writer (claim {highest}; this is {self.epoch})",
                hint="Two processes mirror this run: the later one goes on, as after a requeue. So does the run here.",
            )


def _highest(mirror: Mirror) -> int:
    epochs = (layout.epoch_in(item.key) for item in mirror.objects.list(layout.WRITERS))
    return max((epoch for epoch in epochs if epoch is not None), default=0)


def _claim(epoch: int, token: str, what: str) -> bytes:
    host, pid = socket.gethostname(), os.getpid()
    fields = {"epoch": epoch, "token": token, "what": what, "host": host, "pid": pid, "since": datetime.now(UTC)}
    return msgspec.json.encode(fields) + b"\n"
