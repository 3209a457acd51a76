"""What one rank could not keep: the checkpoint is whole, and the receipt says what a resume lacks on which rank."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

import keepstep
from keepstep.engine import Imprint
from keepstep.integrations.transformers.exporting.shard_imprints import memory_of_shards
from keepstep.integrations.transformers.exporting.tensors import ShardedFiles
from keepstep.integrations.transformers.resuming.rank_parts import not_restored, processes_of
from tests.sharded.faults import Fault
from tests.sharded.legs import Leg, outcome, ride
from tests.training.ranked import logs_of
from tests.training.tiny import NEWEST

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

LOST = tuple((1, Fault(place, "raise", forever=True, anywhere=True)) for place in ("record of the loop", "imprint"))


@pytest.mark.skipif(not NEWEST, reason="FSDP2 came to the Trainer with transformers 5")
@pytest.mark.long
def test_a_receipt_names_the_rank_and_what_it_goes_on_without(tmp_path: Path) -> None:
    legs = (Leg("lossy", keepstep={"engine": "stock"}, faults=LOST), Leg("resumed", copy="lossy", upto=4))
    assert ride(tmp_path, *legs) == [0, 0], logs_of(tmp_path)
    names = {path.name for path in (tmp_path / "lossy/checkpoint-4").iterdir()}
    assert "keepstep_state.json" in names and not {"keepstep_state_1.json", "keepstep_imprint_1.mpz"} & names
    for rank in range(2):
        one = outcome(tmp_path, "resumed", rank)
        assert one.receipt is not None, one
        reasons = {reason["text"]: reason["level"] for reason in one.receipt["reasons"]}
        assert (one.receipt["level"], one.receipt["compared"]) == ("approximate", ""), reasons
        lost = "rank 1: the state of its loop is not in the checkpoint; it goes on with that of rank 0"
        assert reasons[lost] == "approximate", reasons
        unknown = "rank 1: the state was not compared: the checkpoint has no digests of what each rank held"
        assert reasons[unknown] == "exact", reasons
        assert len(reasons) == 2
    exports_compare_with_what_each_rank_held(tmp_path)


def exports_compare_with_what_each_rank_held(home: Path) -> None:
    """By the digests that the ranks left: of one, of both, and of one that held something else."""
    shards = "pytorch_model_fsdp_0"
    lossy, whole = home / "lossy/checkpoint-6", home / "resumed/checkpoint-6"
    with ShardedFiles(whole / shards) as files:
        parts = {rank: sum(f"__{rank}_" in chunk.slot.file for name in files.names for chunk in files.chunks(name))
                 for rank in range(2)}  # fmt: skip
        name = files.names[0]
    held = "parts as the ranks held them when it was saved"
    assert memory_of_shards(lossy, shards) == f"{parts[0]} of {parts[0]} {held}"
    both = sum(parts.values())
    exported = keepstep.export(home / "resumed", home / "out", reference=6)
    assert exported.check is not None and exported.check.memory == f"{both} of {both} {held}"
    imprint = Imprint.read(whole, 1)
    assert imprint is not None
    other = {**imprint.model, name: imprint.model[name]._replace(digest=bytes(16))}
    imprint._replace(model=other).write(whole, 1)
    assert memory_of_shards(whole, shards) == f"{both - 1} of {both} {held}, not so: {name} of rank 1"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("rng_state_1.pth", ["rank 1: its random state is not in the checkpoint, and begins anew"]),
        ("keepstep_state_2.json", ["rank 2: the state of its loop is not in the checkpoint"]),
        ("rng_state_0.pth", ["rank 0: its random state"]),
        ("keepstep_imprint_1.mpz", []),
    ],
)
def test_who_lacks_what_is_told_by_the_files(missing: str, words: list[str], tmp_path: Path) -> None:
    for rank in range(3):
        number = f"_{rank}" if rank else ""
        for name in (f"rng_state_{rank}.pth", f"keepstep_state{number}.json", f"keepstep_imprint{number}.mpz"):
            (tmp_path / name).touch()
    (tmp_path / missing).unlink()
    assert processes_of(tmp_path) == 3
    found = [text for rank in range(3) for text in not_restored(tmp_path, rank, None, 3)]
    assert len(found) == len(words) and all(map(str.startswith, found, words)), found
    assert not any(not_restored(tmp_path, rank, None, 2) for rank in range(2)), "another world has its own reason"
