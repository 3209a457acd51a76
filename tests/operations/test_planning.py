"""Tests of planned bytes, phases and intervals: exact where the formats are, against real state and real files."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.errors import SettingsError, StorageError
from keepstep.model import Checkpoint
from keepstep.operations.planning import disk
from keepstep.operations.planning.decoder import decoder, decoder_with_lora
from keepstep.operations.planning.disk import Kept, most_kept, phases
from keepstep.operations.planning.files import SHARD, safetensors_bytes, torch_bytes, weights_bytes
from keepstep.operations.planning.intervals import Failures
from keepstep.operations.planning.optimizers import OPTIMIZERS, optimizer_named, state_tensors
from keepstep.operations.planning.probe import probe
from keepstep.operations.planning.report import Question, answer
from keepstep.operations.planning.sizes import measure
from keepstep.operations.planning.tensors import Tensor, dtype_named
from keepstep.operations.simulation.replay import replay
from keepstep.operations.simulation.schedule import Schedule
from keepstep.retention import Best, Metric, Policy, default_policy

LOSS = Metric("eval_loss", "min")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = [(300, 40), (64,), (1,), (7, 5, 3), (128, 64)]
REAL: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1),
    "sgd-momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


def _stepped(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], dtype: str) -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.ones(shape, dtype=DTYPES[dtype])) for shape in SHAPES]
    optimizer = make(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def _tensors(dtype: str) -> list[Tensor]:
    return [Tensor(f"p{number}", shape, dtype) for number, shape in enumerate(SHAPES)]


def _bytes_of(optimizer: torch.optim.Optimizer) -> list[int]:
    states = optimizer.state_dict()["state"].values()
    return [t.numel() * t.element_size() for state in states for t in state.values() if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REAL)
def test_state_is_that_of_torch_byte_for_byte(name: str, dtype: str) -> None:
    real = _bytes_of(_stepped(REAL[name], dtype))
    planned = [tensor.nbytes for tensor in state_tensors(OPTIMIZERS[name], _tensors(dtype))]
    assert sorted(planned) == sorted(real)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adafactor_is_that_of_transformers(dtype: str) -> None:
    from transformers import Adafactor

    real = _bytes_of(_stepped(lambda ps: Adafactor(ps, lr=0.1, scale_parameter=False, relative_step=False), dtype))
    planned = [tensor.nbytes for tensor in state_tensors(OPTIMIZERS["adafactor"], _tensors(dtype))]
    assert sorted(planned) == sorted(real)


def test_8_bit_state_has_blocks_and_small_tensors_keep_fp32() -> None:
    large, small = Tensor("a", (300, 300), "fp32"), Tensor("b", (4095,), "bf16")
    table = Tensor("c", (300, 300), "fp32", embedding=True)
    state = state_tensors(OPTIMIZERS["adamw-8bit"], [large, small, table])
    blocks = math.ceil(90_000 / 256)
    assert sum(tensor.nbytes for tensor in state) == 2 * (90_000 + 4 * blocks) + 2 * 4095 * 4 + 2 * 360_000 + 2 * 1024
    assert state_tensors(OPTIMIZERS["lion-8bit"], [small]) == [Tensor("", (4095,), "fp32")]


def test_master_weights_are_a_copy_and_state_in_fp32() -> None:
    state = state_tensors(OPTIMIZERS["adamw"], [Tensor("a", (1000,), "bf16")], master_weights=True)
    assert sum(tensor.nbytes for tensor in state) == 12 * 1000 + 4


@pytest.mark.parametrize("name", ["adamw_torch_fused", "ADAMW", "paged_adamw_8bit", "lion_32bit", "adamw_bnb_8bit"])
def test_names_of_transformers_are_known(name: str) -> None:
    assert optimizer_named(name).name in OPTIMIZERS


@pytest.mark.parametrize("name", ["adamz", "", "galore_adamw", "\x1b[31m"])
def test_unknown_optimizers_and_dtypes_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="not known"):
        optimizer_named(name)
    with pytest.raises(SettingsError, match="no dtype"):
        dtype_named(name)


_TENSORS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.lists(st.integers(1, 40), max_size=3).map(tuple), st.sampled_from(sorted(DTYPES))),
    max_size=12,
)


@settings(max_examples=60)
@given(_TENSORS)
def test_safetensors_files_are_planned_to_the_byte(named: dict[str, tuple[tuple[int, ...], str]]) -> None:
    real = {name: torch.zeros(shape, dtype=DTYPES[dtype]) for name, (shape, dtype) in named.items()}
    planned = [Tensor(name, shape, dtype) for name, (shape, dtype) in named.items()]
    assert safetensors_bytes(planned) == len(safetensors.torch.save(real, metadata={"format": "pt"}))


@pytest.mark.parametrize(("count", "rows"), [(1, 200), (12, 200), (150, 200), (200, 4)])
def test_torch_files_are_planned_to_one_percent(count: int, rows: int) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(rows, 30 + number)) for number in range(count)]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    assert torch_bytes(_bytes_of(optimizer), count) == pytest.approx(len(file.getvalue()), rel=0.01)


def test_records_beyond_4_gib_need_longer_headers() -> None:
    assert torch_bytes([2**32], 1) - torch_bytes([2**32 - 64], 1) > 64


def test_shards_add_an_index() -> None:
    tensor = Tensor("model.embed_tokens.weight", (SHARD // 2 + 1,), "bf16")
    assert weights_bytes([tensor]) > safetensors_bytes([tensor])


@given(st.integers(1, 10**12))
def test_a_rule_of_thumb_model_has_exactly_its_parameters(parameters: int) -> None:
    inventory = decoder(parameters, "bf16")
    assert sum(tensor.numel for tensor in inventory.saved) == parameters
    assert not inventory.exact


def test_13_billion_in_numbers_that_can_be_checked_by_hand() -> None:
    size = measure(decoder(13 * 10**9, "bf16"), OPTIMIZERS["adamw"])
    assert size.weights == pytest.approx(26e9, rel=1e-4)
    assert size.optimizer == pytest.approx(52e9, rel=1e-4)
    mixed = measure(decoder(13 * 10**9, "bf16"), OPTIMIZERS["adamw"], master_weights=True)
    assert mixed.optimizer == pytest.approx(156e9, rel=1e-4)
    assert measure(decoder(13 * 10**9, "bf16"), OPTIMIZERS["adamw"], weights_only=True).optimizer == 0


def test_lora_on_numbers_is_near_llama_13b() -> None:
    inventory = decoder_with_lora(13_015_864_320, "bf16", 16, ["q_proj", "v_proj"], "fp32")
    assert inventory.trained_parameters == pytest.approx(13_107_200, rel=0.05)
    with pytest.raises(SettingsError, match="c_attn"):
        decoder_with_lora(10**9, "bf16", 16, ["c_attn"], "fp32")


def test_each_process_adds_its_random_state() -> None:
    inventory = decoder(10**6, "bf16")
    one, eight = (measure(inventory, OPTIMIZERS["adamw"], world_size=n) for n in (1, 8))
    assert (eight.weights, eight.optimizer) == (one.weights, one.optimizer)
    assert eight.other - one.other == 7 * 14_700


# -- how often -------------------------------------------------------------------------------------------


def test_young_and_daly_as_published() -> None:
    failures = Failures(save_cost=300, mtbf=86_400)
    assert failures.young() == pytest.approx(math.sqrt(2 * 300 * 86_400))
    ratio = 300 / (2 * 86_400)
    assert failures.daly() == pytest.approx(failures.young() * (1 + ratio**0.5 / 3 + ratio / 9) - 300)
    assert Failures(save_cost=200, mtbf=100).daly() == 100


@given(st.floats(0.01, 1e5), st.floats(1, 1e7))
def test_no_interval_costs_less_than_the_optimum(cost: float, mtbf: float) -> None:
    failures = Failures(cost, mtbf)
    best = failures.overhead(failures.optimum())
    assert all(best <= overhead * (1 + 1e-9) + 1e-12 for _, overhead in failures.curve())
    assert best <= failures.overhead(failures.young()) * (1 + 1e-9) + 1e-12


@given(st.floats(0.01, 100), st.floats(1e5, 1e7))
def test_daly_is_near_the_optimum_where_saves_are_cheap(cost: float, mtbf: float) -> None:
    failures = Failures(cost, mtbf)
    assert failures.daly() == pytest.approx(failures.optimum(), rel=1e-3)


def test_a_restart_costs_and_no_end_is_infinite() -> None:
    assert Failures(10, 3600, restart=600).overhead(300) > Failures(10, 3600).overhead(300)
    assert Failures(10, 1).overhead(1e6) == math.inf


WHOLE, THINNED = 300, 100
"""Bytes of a made-up checkpoint, and of its weights."""


def _bytes(checkpoints: Sequence[Checkpoint]) -> int:
    return sum(checkpoint.size_bytes for checkpoint in checkpoints)


# -- on disk ---------------------------------------------------------------------------------------------


@given(
    st.sampled_from(
        [
            "best:3,latest:2",
            "best:2:full,every:50",
            "best:2",
            "latest:1",
            "best:1,every:40",
            "every:30",
            "all",
            "hourly:2,best:1",
        ]
    ),
    st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, math.nan]), min_size=30, max_size=30),
    st.sampled_from([10, 15, 20]),
    st.sampled_from([10, 7]),
)
def test_no_metric_makes_a_policy_keep_more_than_planned(
    spec: str, losses: list[float], save_every: int, eval_every: int
) -> None:
    policy = Policy.from_spec(spec, LOSS)
    schedule = Schedule(200, save_every, eval_every)
    values = dict(zip(schedule.evaluations, losses, strict=False))
    moments = replay(policy, schedule, values, size=WHOLE, weights=THINNED, seconds_per_step=60).moments
    most = most_kept(policy, schedule, 60)
    assert max(len(moment.kept) for moment in moments) <= most.count
    assert max(_bytes(moment.kept) for moment in moments) <= most.bytes(WHOLE, THINNED)
    phases_ = phases(most, len(moments))
    assert max(len(moment.most) for moment in moments) <= max(p.checkpoints for p in phases_)
    assert max(_bytes(moment.most) for moment in moments) <= max(p.bytes(WHOLE, THINNED) for p in phases_)


def test_the_planned_most_is_reached_when_the_first_are_the_best() -> None:
    schedule = Schedule(1000, 100, 100)
    policy = default_policy(3, LOSS)
    moments = replay(policy, schedule, {step: float(step) for step in schedule.evaluations}).moments
    assert max(len(moment.kept) for moment in moments) == most_kept(policy, schedule, None).count == 4


def test_the_planned_bytes_are_reached_when_the_first_are_the_best_and_thinned() -> None:
    schedule, policy = Schedule(1000, 100, 100), Policy.from_spec("best:3,latest:2", LOSS)
    losses = {step: float(step) for step in schedule.evaluations}
    moments = replay(policy, schedule, losses, size=WHOLE, weights=THINNED).moments
    most = most_kept(policy, schedule, None)
    assert most == Kept(whole=2, thinned=3)
    assert max(_bytes(moment.kept) for moment in moments) == most.bytes(WHOLE, THINNED) == 2 * WHOLE + 3 * THINNED


def test_milestones_and_the_latest_are_not_counted_twice() -> None:
    assert most_kept(Policy.from_spec("latest:2,every:100"), Schedule(1000, 50), None) == Kept(11)
    assert most_kept(Policy.from_spec("latest:2,every:100"), Schedule(1000, 100), None) == Kept(10)


def test_a_rule_that_is_not_known_may_keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of a later day would be: more than enough room is planned, never too little."""
    assert most_kept(Policy.from_spec("latest:2"), Schedule(1000, 50), None) == Kept(2)
    monkeypatch.setattr(disk, "_COUNTED", (Best,))
    assert most_kept(Policy.from_spec("latest:2"), Schedule(1000, 50), None) == Kept(20)


def test_rules_of_time_need_the_time_of_a_step() -> None:
    with pytest.raises(SettingsError, match="daily:7"):
        most_kept(Policy.from_spec("daily:7"), Schedule(100, 10), None)


def test_phases_never_hold_more_than_was_saved() -> None:
    assert [phase.checkpoints for phase in phases(Kept(4), 20)] == [4, 5, 5, 5, 6, 4]
    assert [phase.checkpoints for phase in phases(Kept(4), 3)] == [3, 3, 3, 3, 3, 3]


def test_an_export_takes_the_weights_once_more() -> None:
    between, *_, export = phases(Kept(2, thinned=3), 20)
    assert export.bytes(WHOLE, THINNED) == between.bytes(WHOLE, THINNED) + THINNED == 2 * WHOLE + 4 * THINNED


@pytest.mark.parametrize(("steps", "every"), [(10, 0), (-1, 5), (0, 1), (10**9, 1)])
def test_schedules_that_make_no_sense_are_refused(steps: int, every: int) -> None:
    with pytest.raises(SettingsError):
        Schedule(steps, every)


def test_the_whole_answer(tmp_path: Path) -> None:
    question = Question(
        decoder(10**9, "bf16"), OPTIMIZERS["adamw"], schedule=Schedule(1000, 100, 50), policy=default_policy(2, LOSS),
        seconds_per_step=2.0, target=tmp_path / "not" / "yet", bandwidth=6e8, mtbf=3600, grace=15,
    )  # fmt: skip
    report = answer(question)
    assert report.disk is not None and report.grace is not None and report.failures is not None
    assert report.write_seconds == pytest.approx(10, rel=0.01)
    assert (report.disk.saves, report.disk.more_saves, report.disk.kept) == (10, 10, Kept(3))
    assert report.disk.written == 20 * report.size.total
    assert report.disk.peak == 5 * report.size.total
    assert report.grace.enough and not report.grace.always_enough
    assert report.interval == 200 and report.steps(200) == 100


# -- probe -----------------------------------------------------------------------------------------------


def test_a_probe_writes_syncs_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("keepstep.operations.planning.probe.os.fsync", synced.append)
    assert probe(tmp_path, 40 * 2**20) > 0
    assert len(synced) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_probe_that_fails_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keepstep.operations.planning.probe.os.write", full)
    with pytest.raises(StorageError, match="No space left"):
        probe(tmp_path, 10**6)
    assert list(tmp_path.iterdir()) == []


def test_a_probe_needs_a_directory_and_room(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no directory"):
        probe(tmp_path / "missing", 10**6)
    with pytest.raises(SettingsError, match="too little room"):
        probe(tmp_path, 10**18)
