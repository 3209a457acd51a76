"""What `torchrun` starts on each rank: `launched.py HOME LEG COPY UPTO VICTIM`; the victim kills itself at step 3."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.sharded import legs
from tests.sharded.legs import AtStep, Leg, ride_as
from tests.training.tiny import build


def main() -> None:
    home, name, copy, upto, victim = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    rank = int(os.environ["RANK"])

    def with_a_kill(*arguments: Any) -> Any:
        trainer = build(*arguments)
        if rank == victim:
            trainer.add_callback(AtStep(3, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        return trainer

    with patch.object(legs, "build", with_a_kill):
        ride_as(rank, home, (Leg(name, copy=copy, upto=upto),))


if __name__ == "__main__":
    main()
