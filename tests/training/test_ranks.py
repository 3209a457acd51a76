"""Processes that agree: what rank 0 decides, what each of them gives, and errors on their way from one to all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch.distributed as dist

from keepstep.errors import StorageError
from keepstep.snapshot.ranks import Ranks
from tests.training.ranked import logs_of, run_ranks

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]


class OddError(Exception):
    """An error that can't be built from its arguments."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def _fail(error: BaseException) -> Any:
    raise error


def _ends(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "errno", None)]


def _talk(rank: int, home: Path) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=2)
    ranks = Ranks(rank, 2, patience=20)
    found = {
        "agreed": ranks.agree(lambda: f"by {rank}"),
        "inside": ranks.agree(lambda: ranks.agree(lambda: f"inside, by {rank}")),
        "storage": _ends(lambda: ranks.agree(lambda: _fail(StorageError("full", hint="free space", errno=28)))),
        "odd": _ends(lambda: ranks.agree(lambda: _fail(OddError("this", "that")))),
        "together": ranks.together(lambda: f"of {rank}"),
        "one fails": _ends(lambda: ranks.together(lambda: _fail(ValueError("one")) if rank else "fine")),
        "both fail": _ends(lambda: ranks.together(lambda: _fail(ValueError(f"mine, {rank}")))),
    }
    with ranks.apart():
        dist.barrier() if rank else None
    (home / f"found-{rank}.json").write_text(json.dumps(found))


def test_two_processes_agree(tmp_path: Path) -> None:
    assert run_ranks(tmp_path, _talk, tmp_path) == [0, 0], logs_of(tmp_path)
    one, other = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2))
    assert one["agreed"] == other["agreed"] == "by 0"
    assert one["inside"] == other["inside"] == "inside, by 0"
    assert one["storage"] == other["storage"] == ["StorageError", "full\n  free space", 28]
    assert one["odd"] == ["OddError", "this and that", None]
    assert other["odd"] == ["KeepstepError", "rank 0: OddError: this and that", None]
    assert (one["together"], other["together"]) == (["of 0", "of 1"], [])
    assert one["one fails"] == other["one fails"] == ["ValueError", "one", None]
    assert [found["both fail"][1] for found in (one, other)] == ["mine, 0", "mine, 1"]


def test_a_single_process_agrees_with_itself() -> None:
    ranks = Ranks()
    assert ranks.single and ranks.leads
    assert ranks.agree(lambda: 1) == 1
    assert ranks.together(lambda: 2) == [2]
    with pytest.raises(StorageError):
        ranks.agree(lambda: _fail(StorageError("full")))
    assert not dist.is_initialized()
