"""What sharded saves are made of: whose a file is, what rank 0 has all do while it decides, failures that are kept."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from keepstep.integrations.transformers.saving.deferring import Deferral
from keepstep.integrations.transformers.setup.portions import seal_portion, whose, writer_of
from keepstep.snapshot.ranks import Ranks
from tests.training.ranked import logs_of, run_ranks

pytestmark = pytest.mark.training


@pytest.mark.parametrize(
    ("path", "rank"),
    [
        ("pytorch_model_fsdp_0/__3_0.distcp", 3), ("optimizer_0/__12_1.distcp", 12), ("optimizer_0/.metadata", 0),
        ("rng_state_2.pth", 2), ("rng_state.pth", 0), ("keepstep_state_4.json", 4), ("keepstep_state.json", 0),
        ("keepstep_imprint_5.mpz", 5), ("keepstep_imprint.mpz", 0), ("model.safetensors", 0),
        ("global_step4/zero_pp_rank_6_mp_rank_00_optim_states.pt", 6), ("my_rank_7.txt", 0),
    ],
)  # fmt: skip
def test_a_name_tells_whose_a_file_is(path: str, rank: int) -> None:
    assert writer_of(path) == rank


def test_who_is_not_told_by_the_name_is_not_named() -> None:
    assert whose(["rng_state_2.pth"]) == "rank 2"
    assert whose(["config.json"]) == whose(["rng_state_1.pth", "rng_state_2.pth"]) == ""


def test_each_rank_seals_its_own_and_together_they_seal_all(tmp_path: Path) -> None:
    home = tmp_path / "checkpoint-1"
    for name in ("a/__0_0.distcp", "a/__1_0.distcp", "a/.metadata", "rng_state_1.pth", "config.json"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    portions = [{entry.path for entry in seal_portion(home, rank)} for rank in range(2)]
    assert portions == [{"a/__0_0.distcp", "a/.metadata", "config.json"}, {"a/__1_0.distcp", "rng_state_1.pth"}]


def test_failures_are_kept_in_the_thread_that_saves_and_raised_in_others(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    deferral, raised = Deferral(), list[type]()

    def elsewhere() -> None:
        try:
            os.makedirs(tmp_path / "file" / "below")
        except OSError as error:
            raised.append(type(error))

    with deferral.of_writers():
        os.makedirs(tmp_path / "file" / "below")
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
    assert [getattr(error, "errno", None) for error in deferral.failures] == [errno.ENOTDIR]
    assert raised == [NotADirectoryError]
    with pytest.raises(NotADirectoryError):
        os.makedirs(tmp_path / "file" / "below")


def _decide(rank: int) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    ranks = Ranks(rank, 2, patience=60, sharded=True)
    ranks.serve("double", lambda given: (rank, 2 * given, ranks.is_deciding))
    ranks.serve("fail", lambda given: 1 // (1 - rank))

    def decide() -> list[object]:
        first = ranks.everyone("double", 3)
        with pytest.raises(ZeroDivisionError):
            ranks.everyone("fail", None)
        return [*first, ranks.agree(lambda: "its own")]

    expected = [(0, 6, True), (1, 6, True), "its own"]
    assert ranks.agree(decide) == expected
    assert ranks.agree(lambda: "next") == "next"  # all are in step
    assert ranks.twin() is ranks.twin() is not ranks
    assert ranks.twin().together(lambda: rank) == ([0, 1] if rank == 0 else [])
    dist.barrier()


def test_rank_0_has_all_do_a_part_while_it_decides(tmp_path: Path) -> None:
    assert run_ranks(tmp_path, _decide) == [0, 0], logs_of(tmp_path)
