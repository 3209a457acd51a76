"""A loop of one's own without torch, as ckpt-chaos runs it: `python -m tests.campaign.chaos.loop POLICY OUT`.

POLICY is a policy of keepstep, or "in place": the same loop that writes its checkpoints where they are to lie.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from keepstep import Checkpointer, Facts

STEPS, EVERY = 6, 2
State = dict[str, int | str]


def trained(state: State) -> State:
    """The state one step on."""
    step = int(state["step"]) + 1
    return {"step": step, "weights": hashlib.sha256(f"{state['weights']} {step}".encode()).hexdigest()}


def written(directory: Path, state: State) -> None:
    """The files of a checkpoint: what a framework writes, without any sync."""
    (directory / "state").mkdir(parents=True)
    (directory / "model.bin").write_bytes(str(state["weights"]).encode() * 100)
    (directory / "state/loop.json").write_text(json.dumps(state))


def read(directory: Path) -> State:
    """The state that lies in a checkpoint. Raises what a half one makes reading it raise."""
    state: State = json.loads((directory / "state/loop.json").read_text())
    assert (directory / "model.bin").read_bytes() == str(state["weights"]).encode() * 100
    return state


def train(state: State, save: Callable[[State], None]) -> State:
    """To the last step; says from where."""
    print(f"resumed from step {state['step']}")
    while int(state["step"]) < STEPS:
        state = trained(state)
        if int(state["step"]) % EVERY == 0:
            save(state)
    return state


def kept(policy: str, out: Path) -> State:
    """With keepstep."""
    with Checkpointer(out, policy) as checkpointer:
        point = checkpointer.begin("auto")
        state: State = {"step": 0, "weights": ""} if point is None else read(point.path)

        def save(state: State) -> None:
            checkpointer.save(Facts(int(state["step"])), lambda directory: written(directory, state))

        return train(state, save)


def in_place(out: Path) -> State:
    """Without: the newest by its number is taken."""
    found = sorted(out.glob("checkpoint-*"), key=lambda one: int(one.name.partition("-")[2]))
    state: State = read(found[-1]) if found else {"step": 0, "weights": ""}
    return train(state, lambda state: written(out / f"checkpoint-{state['step']}", state))


if __name__ == "__main__":
    policy, path = sys.argv[1], Path(sys.argv[2])
    ended = in_place(path) if policy == "in place" else kept(policy, path)
    (path / "final.json").write_text(json.dumps(ended))
