"""One rank dies, hangs or fails alone, in each phase of a save and of a load: the others end soon, nothing is lost.

`KEEPSTEP_TEST_RANKS` is how many of the cases are played, spread evenly; "all" plays all of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.sharded.faults import Fault
from tests.sharded.legs import Leg, outcome, ride
from tests.training.ranked import log_path, logs_of
from tests.training.tiny import NEWEST

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not NEWEST, reason="FSDP2 came to the Trainer with transformers 5"),
]

SHORT = (0.3, 4.0, 3.0)
"""Seconds between signs of life, without one, and after a failure."""
SECONDS = 60.0
"""In which all ranks have ended: far less than the 30 minutes of `ddp_timeout`, on a busy machine too."""
SAVE = ("state dict", "shards", "copies", "torch.save", "loop state", "sync", "rename")
LOAD = ("verification", "plan of a load", "load of shards")
CASES = [
    *((place, rank, "kill") for place in SAVE for rank in (1, 0) if (place, rank) != ("rename", 1)),
    *((place, rank, "kill") for place in LOAD for rank in (1, 0)),
    *(("state dict", rank, "raise") for rank in (1, 0)),
    ("shards", 1, "stop"),
]
CHOSEN = os.environ.get("KEEPSTEP_TEST_RANKS", "4")


def chosen() -> list[tuple[str, int, str]]:
    count = len(CASES) if CHOSEN == "all" else int(CHOSEN)
    return [CASES[number * len(CASES) // count] for number in range(min(count, len(CASES)))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("whole")
    assert ride(home, Leg("whole")) == [0, 0], logs_of(home)
    return home


@pytest.mark.parametrize(("place", "rank", "what"), chosen())
def test_the_others_end_and_the_newest_commit_goes_on(
    place: str, rank: int, what: str, whole: Path, tmp_path: Path
) -> None:
    loads = place in LOAD
    if loads:
        shutil.copytree(whole / "whole", tmp_path / "whole")
    fault = Fault(place, what, nth=2 if place in ("shards", "loop state", "rename") else 1, anywhere=loads)
    goes_on = {"copy": "whole", "upto": 4} if loads else {}
    engine = {"engine": "stock" if place == "shards" else "auto"}
    leg = Leg("struck", limits=SHORT, faults=((rank, fault),), keepstep=engine, **goes_on)
    began = time.monotonic()
    if what == "stop":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.training.processes._TIMEOUT", SECONDS)
            with pytest.raises(TimeoutError):
                ride(tmp_path, leg)  # the stopped one itself ends never
    else:
        codes = ride(tmp_path, leg)
        assert time.monotonic() - began < SECONDS, codes
        assert what != "kill" or codes[rank] == -signal.SIGKILL, (codes, logs_of(tmp_path))
    said = log_path(tmp_path, 1 - rank).read_text()
    heard = {
        "kill": "Connection reset",
        "raise": f"rank {rank} failed in the save of step 2: ValueError: somebody's own code failed",
        "stop": f"rank {rank} has not been heard of for",
    }
    assert heard[what] in said or (what == "kill" and "losed by peer" in said), said[-3000:]
    assert ride(tmp_path, Leg("again", copy="struck", upto=99)) == [0, 0], logs_of(tmp_path)
    for each in range(2):
        one, reference = outcome(tmp_path, "again", each), outcome(whole, "whole", each)
        assert (one.weights, one.optimizer, one.history) == (reference.weights, reference.optimizer, reference.history)


NOBODY = -1


def test_below_torchrun_a_rank_that_is_killed_ends_all_and_the_next_start_goes_on(whole: Path, tmp_path: Path) -> None:
    """torchrun tells the others with a SIGTERM: a save that it asks for would wait for the dead."""
    began = time.monotonic()
    assert launch(tmp_path, "killed", "", 0, 1) == 1
    assert time.monotonic() - began < 2 * SECONDS
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-2"]
    assert launch(tmp_path, "again", "killed", 99, NOBODY) == 0, (tmp_path / "log-0").read_text()[-3000:]
    one, reference = outcome(tmp_path, "again"), outcome(whole, "whole")
    assert (one.weights, one.optimizer, one.history) == (reference.weights, reference.optimizer, reference.history)
    assert one.receipt is not None and (one.receipt["level"], one.receipt["step"]) == ("exact", 2)


def launch(home: Path, leg: str, copy: str, upto: int, victim: int) -> int:
    """One training of two processes by torchrun; returns its exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["-m", "tests.sharded.launched", home, leg, copy, upto, victim]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (home / "log-0").open("ab") as log:
        return subprocess.run(
            [*command, *map(str, arguments)], stdout=log, stderr=log, env=environment, timeout=200, check=False
        ).returncode
