"""A plan made from the last one is the plan that would be made anew."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

from keepstep.formats.torch_planner import TorchPlanner
from tests.formats.files import adamw_state, stock_torch_bytes, torch_bytes


def again(state: dict) -> dict:
    """A new state dict around the same tensors, as an optimizer returns it."""
    return {
        "state": {index: dict(values) for index, values in state["state"].items()},
        "param_groups": copy.deepcopy(state["param_groups"]),
    }


def test_only_floats_changed() -> None:
    planner, state = TorchPlanner(), adamw_state()
    for lr in (1e-3, 1e-3, 0.0, -1.5, float("inf"), 3e-5):
        state = again(state)
        state["param_groups"][0]["lr"] = lr
        for values in state["state"].values():
            values["exp_avg"] += 1
        assert torch_bytes(planner.plan(state)) == stock_torch_bytes(state)
    assert planner.reused == 5


def _another_int(state: dict) -> None:
    state["param_groups"][0]["params"][0] = 9


def _a_longer_int(state: dict) -> None:
    state["param_groups"][0]["params"][0] = 100_000


def _float_to_int(state: dict) -> None:
    state["param_groups"][0]["lr"] = 1


def _another_key(state: dict) -> None:
    state["param_groups"][0]["LR"] = state["param_groups"][0].pop("lr")


def _another_tensor(state: dict) -> None:
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].clone()


def _reshaped_in_place(state: dict) -> None:
    state["state"][0]["exp_avg"].resize_(10, 100)


def _other_memory(state: dict) -> None:
    state["state"][0]["exp_avg"].data = state["state"][0]["exp_avg"] + 1


def _a_gradient_wanted(state: dict) -> None:
    state["state"][0]["exp_avg"].requires_grad_()


def _swapped(state: dict) -> None:
    first = state["state"][0]
    first["exp_avg"], first["exp_avg_sq"] = first["exp_avg_sq"], first["exp_avg"]


def _tied(state: dict) -> None:
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg_sq"]


def _one_more(state: dict) -> None:
    state["state"][9] = {"step": torch.tensor(1.0)}


CHANGES = [
    *(_another_int, _a_longer_int, _float_to_int, _another_key, _another_tensor, _reshaped_in_place, _other_memory),
    *(_a_gradient_wanted, _swapped, _tied, _one_more),
]


@pytest.mark.parametrize("change", CHANGES)
def test_anything_else_is_planned_anew(change) -> None:
    planner, state = TorchPlanner(), adamw_state()
    planner.plan(state)
    state = again(state)
    change(state)
    assert torch_bytes(planner.plan(state)) == stock_torch_bytes(state)
    assert planner.reused == 0


@pytest.mark.parametrize("odd", [torch.eye(3).to_sparse(), torch.empty(0), {"x": 1.0}])
def test_other_objects_are_planned_each_time(odd: object) -> None:
    planner = TorchPlanner()
    for _ in range(2):
        assert torch_bytes(planner.plan(odd)) == stock_torch_bytes(odd)


def test_no_tensor_is_kept_alive() -> None:
    planner, state = TorchPlanner(), adamw_state()
    planner.plan(state)
    tensor = weakref.ref(state["state"][0]["exp_avg"])
    del state
    gc.collect()
    assert tensor() is None
