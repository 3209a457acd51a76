"""Two checkpoints side by side, on real files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from keepstep import engine
from keepstep.checkpointer import Facts
from keepstep.errors import CheckpointNotFound, ReferenceInvalid, RunNotFound
from keepstep.operations.comparing.comparison import NO_TORCH, Outcome, compare, plan_comparison
from keepstep.operations.comparing.sides import both_sides, held
from keepstep.run import Run
from tests.operations.runs import training

W = torch.linspace(-1, 1, 4096).reshape(64, 64)


def make(path: Path, steps: dict[int, dict[str, torch.Tensor]]) -> Run:
    """A managed run with these tensors at each step."""
    with training(path) as checkpointer:
        for step, tensors in steps.items():

            def write(directory: Path, tensors: dict[str, torch.Tensor] = tensors, step: int = step) -> None:
                save_file({name: one.clone() for name, one in tensors.items()}, directory / "model.safetensors")
                torch.save({"state": {0: {"exp_avg": torch.full((3,), float(step))}}}, directory / "optimizer.pt")

            facts = Facts(step, metrics={"eval_loss": 1 / step}, fingerprint={"data": {"digest": f"d{step // 200}"}})
            checkpointer.save(facts, write)
    return Run.open(path)


def outcome(*words: object, optimizer: bool = False) -> Outcome:
    before, after = both_sides([str(word) for word in words])
    return compare(plan_comparison(before, after, optimizer=optimizer), engine)


def test_each_tensor_says_how_far_it_moved(tmp_path: Path) -> None:
    one = {"a": W, "b": W.clone(), "same": W.clone(), "gone": W[:1].clone(), "grown": W.clone(), "cast": W.clone()}
    two = {"a": W * 1.5, "b": W.clone(), "same": W.clone(), "new": W[:1].clone(), "grown": torch.zeros(65, 64)}
    two["b"][0, 0] += 8
    two["cast"] = W.to(torch.bfloat16)
    make(tmp_path / "run", {100: one, 200: two})

    found = outcome(tmp_path / "run", 100, 200, optimizer=True)

    by_name = {tensor.pair.name: tensor for tensor in found.tensors}
    assert by_name["a"].sums is not None and math.isclose(by_name["a"].sums.relative, 0.5, rel_tol=1e-6)
    b = by_name["b"].sums
    assert b is not None and (b.unchanged, b.largest) == (4095, 8.0)
    assert math.isclose(b.relative, 8 / float(W.double().norm()), rel_tol=1e-9)
    cast = by_name["cast"].sums
    assert cast is not None and cast.unchanged == int((W.to(torch.bfloat16).float() == W).sum()) < 4096
    assert by_name["same"].sums is not None and by_name["same"].sums.same
    assert {name: t.why for name, t in by_name.items() if t.why} == {
        "gone": "only before", "new": "only after", "grown": "of another shape"
    }  # fmt: skip
    assert by_name["optimizer: state.0.exp_avg"].sums is not None
    order = [tensor.pair.name for tensor in found.tensors]
    assert order == ["gone", "grown", "new", "optimizer: state.0.exp_avg", "a", "b", "cast", "same"]
    assert found.total.elements == 4 * 4096  # the optimizer's are no weights
    whats = {change.what for change in found.comparison.changes}
    assert {"metric: eval_loss", "data: digest", "size"} <= whats


def test_numbers_that_are_none_are_counted_and_in_no_norm(tmp_path: Path) -> None:
    one, two = W.clone(), W.clone()
    one[0, :3], two[0, :2] = math.nan, math.inf
    one[1, 0] = two[1, 0] = math.nan  # the same bits are no change
    make(tmp_path / "run", {100: {"a": one, "zero": torch.zeros(2)}, 200: {"a": two, "zero": torch.ones(2)}})

    sums = {t.pair.name: t.sums for t in outcome(tmp_path / "run", 100, 200).tensors}

    assert sums["a"] is not None and sums["zero"] is not None
    assert (sums["a"].non_finite_before, sums["a"].non_finite_after, sums["a"].unchanged) == (4, 3, 4093)
    assert sums["a"].relative == 0.0
    assert sums["zero"].relative == math.inf
    json.dumps(outcome(tmp_path / "run", 100, 200).to_json(), allow_nan=False)


def test_two_runs_stock_directories_shards_and_archives_of_torch(tmp_path: Path) -> None:
    make(tmp_path / "run", {100: {"a": W, "b": W + 1}})
    stock = tmp_path / "stock" / "checkpoint-7"
    stock.mkdir(parents=True)
    torch.save({"a": W, "b": W + 1}, stock / "pytorch_model.bin")
    model = tmp_path / "model"
    model.mkdir()
    save_file({"a": W}, model / "model-00001-of-00002.safetensors")
    save_file({"b": W + 2}, model / "model-00002-of-00002.safetensors")
    torch.save({"a": W, "b": W}, model / "pytorch_model.bin")  # a download has both
    (model / "broken.safetensors").write_bytes(b"no header")

    same = outcome(tmp_path / "run", 100, tmp_path / "stock", 7)
    assert (same.compared, same.unchanged) == (2, 2)
    moved = outcome(model, tmp_path / "run" / "checkpoint-100")
    assert {t.pair.name: t.sums and t.sums.same for t in moved.tensors} == {"a": True, "b": False}
    assert sorted(one.path.name for one in moved.comparison.not_read) == ["broken.safetensors", "pytorch_model.bin"]
    assert outcome(model, tmp_path / "run", "latest").to_json() == {
        **moved.to_json(), "after": {**moved.to_json()["after"], "path": str(tmp_path / "run" / "checkpoint-100")}
    }  # fmt: skip
    assert outcome(tmp_path / "run", 100, model).compared == 2


def test_without_arithmetic_names_and_shapes_are_still_told(tmp_path: Path) -> None:
    make(tmp_path / "run", {100: {"a": W}, 200: {"a": W, "b": W}})
    sides = both_sides([str(tmp_path / "run"), "100", "200"])
    found = compare(plan_comparison(*sides), None)
    assert {t.pair.name: t.why for t in found.tensors} == {"a": NO_TORCH, "b": "only after"}


def test_what_is_compared_stays_where_it_is_meanwhile(tmp_path: Path) -> None:
    run = make(tmp_path / "run", {100: {"a": W}, 200: {"a": W}})
    sides = both_sides([str(run.path), "100", "200"])

    with held(*sides):
        assert run.held == {1, 2}
    assert not run.held


def test_what_is_no_side_has_its_reason(tmp_path: Path) -> None:
    make(tmp_path / "run", {100: {"a": W}})
    with pytest.raises(ReferenceInvalid, match="1 words"):
        both_sides(["one"])
    with pytest.raises(CheckpointNotFound, match="is no directory"):
        both_sides([str(tmp_path / "run"), str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointNotFound, match="holds no file"):
        both_sides([str(tmp_path / "empty"), str(tmp_path / "run")])
    with pytest.raises(RunNotFound, match="empty holds no run"):
        both_sides([str(tmp_path / "empty"), "100", "200"])


LARGE = 256 * 2**20
CHILD = """
import resource, sys
from keepstep import engine
from keepstep.operations.comparing.comparison import compare, plan_comparison
from keepstep.operations.comparing.sides import both_sides
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
compare(plan_comparison(*both_sides(sys.argv[1:3])), engine)
before = peak()
found = compare(plan_comparison(*both_sides(sys.argv[3:5])), engine)
print(found.total.elements, peak() - before)
"""


@pytest.mark.long
def test_a_tensor_of_any_size_takes_the_same_memory(tmp_path: Path) -> None:
    def sparse(name: str, size: int) -> Path:
        header = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
        home = tmp_path / name
        home.mkdir()
        with open(home / "model.safetensors", "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size)
        return home

    paths = [sparse("small", 8 * 2**20), sparse("small too", 8 * 2**20), sparse("one", LARGE), sparse("two", LARGE)]
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, check=True)

    elements, grown = map(int, done.stdout.split())
    assert elements == LARGE // 4
    assert grown < LARGE // 2  # the two would be twice as much, and their sums in double precision more
