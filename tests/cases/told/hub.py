"""The hub: what goes up, and what comes back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers.trainer
from huggingface_hub import RepoUrl
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects
from safetensors.torch import load_file
from transformers import Trainer

from tests.cases.facts import Facts, digest
from tests.cases.parts import trainer
from tests.cases.situation import Side, Situation, dying

OF_THE_RUN = (".keepstep", "weights-", "checkpoint-", "last-checkpoint")
OF_A_CHECKPOINT = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "keepstep.json",
    "keepstep_imprint.mpz",
    "keepstep_state.json",
    "trainer_state.json",
)


class Done:
    """An upload that has ended."""

    def __init__(self, jobs: Any = None) -> None:
        self.jobs = jobs or []

    def is_done(self) -> bool:
        return True

    done = is_done

    def wait_until_done(self) -> None:
        return

    def result(self, *_: Any) -> str:
        return "https://huggingface.co/me/model/commit/1"


class Hub:
    """Takes what HfApi.upload_folder would take, with the same filter: a copy into a directory of this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def create_repo(self, *_: Any, **__: Any) -> RepoUrl:
        return RepoUrl("https://huggingface.co/me/model")

    def upload_folder(
        self, *, folder_path: str | Path, path_in_repo: str | None = None, ignore_patterns: Any = None, **_: Any
    ) -> Done:
        given = [ignore_patterns] if isinstance(ignore_patterns, str) else ignore_patterns or []
        files = sorted(
            path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*") if path.is_file()
        )
        for name in filter_repo_objects(files, ignore_patterns=[*given, *DEFAULT_IGNORE_PATTERNS]):
            target = self.directory / (path_in_repo or "") / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path, name), target)
        return Done()

    def files(self) -> list[str]:
        """Every file that has gone up."""
        found = (path for path in self.directory.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.directory).as_posix() for path in found)


def connected(out: Path) -> Hub:
    """A hub in place of the real one, for this process."""
    hub = Hub(out.with_name(f"hub of {out.name}"))
    # transformers 5 asks for an API object, 4 imports its functions.
    replaced: dict[str, Any] = {
        "hf_api": lambda: hub, "create_repo": hub.create_repo, "upload_folder": hub.upload_folder,
        "PushInProgress": Done,
    }  # fmt: skip
    for name, value in replaced.items():
        if hasattr(transformers.trainer, name):
            setattr(transformers.trainer, name, value)
    Trainer.create_model_card = lambda self, *_, **__: None
    return hub


def pushing(out: Path, strategy: str = "checkpoint", **arguments: Any) -> Trainer:
    return trainer(out, push_to_hub=True, hub_model_id="me/model", hub_strategy=strategy, **arguments)


# -- what comes back -------------------------------------------------------------------------------------


def pushed_and_killed(side: Side, out: Path) -> Facts:
    """Killed after step 4; its last checkpoint is on the hub."""
    connected(out)
    side.train(side.attach(dying(pushing(out), 4, side)))
    raise AssertionError("it was to be killed")


def brought_back(to: str, given: str | None) -> Callable[[Side, Path], Facts]:
    """On another machine: `last-checkpoint` downloaded to a place, and resumed by that path, or by what lies there."""

    def life(side: Side, out: Path) -> Facts:
        new = out.with_name("another machine") / "run"
        place = new.parent / to
        shutil.copytree(Hub(out.with_name(f"hub of {out.name}")).directory / "last-checkpoint", place)
        os.chdir(new.parent)
        built = side.attach(trainer(new))
        if given is None:
            side.train(built)
        else:
            built.train(resume_from_checkpoint=str(place) if given == "absolute" else given)
        return side.facts(built)

    return life


def back(name: str, to: str, given: str | None) -> Situation:
    """A training that goes on from what the hub has of it."""
    return Situation(
        f"last-checkpoint, {name}",
        "hub_strategy=checkpoint; killed, and gone on with from the hub",
        trainer,
        broken=(pushed_and_killed, brought_back(to, given)),
    )


# -- what goes up ----------------------------------------------------------------------------------------


def pushed(strategy: str, finally_pushed: bool = False) -> Callable[[Side, Path], Facts]:
    """A training that pushes; what is on the hub beside the model, and whether the model there is the last."""

    def life(side: Side, out: Path) -> Facts:
        hub = connected(out)
        built = side.attach(pushing(out, strategy))
        side.train(built)
        if finally_pushed:
            built.push_to_hub()
        return {**side.facts(built), **what_is_there(hub, built)}

    return life


def pushed_from_a_used_directory(side: Side, out: Path) -> Facts:
    """An older run in the same directory; then one that thins its checkpoints, and pushes at every save."""
    side.attach(trainer(out)).train()
    hub = connected(out)
    options = {"fresh": "new-run", "keep": "latest:1,best:2"} if side.managed else {}
    built = side.attach(pushing(out, "every_save"), **options)
    built.train()
    return {**side.facts(built), **what_is_there(hub, built)}


def what_is_there(hub: Hub, trainer: Trainer) -> Facts:
    """The folders of checkpoints on the hub, what lies there that no one asked for, and whose weights those are."""
    files = hub.files()
    model = hub.directory / "model.safetensors"
    own = {name for name, value in trainer.model.state_dict().items() if value is not None}
    weights = {name: tensor for name, tensor in load_file(model).items() if name in own} if model.exists() else {}
    return {
        "checkpoints there": sorted({name.split("/")[0] for name in files if name.startswith(OF_THE_RUN[2:])}),
        "not asked for": [
            name for name in files
            if name.startswith(OF_THE_RUN[:2]) or ("/" not in name and name in OF_A_CHECKPOINT)
        ],
        "weights there": digest(weights),
    }  # fmt: skip


CLEAN = {"not asked for": []}
SITUATIONS = (
    back("in another place", "downloads/last-checkpoint", "absolute"),
    back("inside output_dir", "run/last-checkpoint", "absolute"),
    back("by a relative path", "last-checkpoint", "last-checkpoint"),
    back("renamed", "run/checkpoint-4", "absolute"),
    back("renamed, found by itself", "run/checkpoint-4", None),
    *(
        Situation(
            f"hub_strategy={name}", "what is on the hub at the end", trainer, kill=None, whole=pushed(name), wants=CLEAN
        )
        for name in ("every_save", "checkpoint", "all_checkpoints")
    ),
    Situation(
        "hub_strategy=end, push_to_hub()",
        "pushed by hand at the end",
        trainer,
        kill=None,
        whole=pushed("end", finally_pushed=True),
        wants=CLEAN,
    ),
    Situation(
        "pushed from a used directory",
        "an older run beside it, and checkpoints that are thinned",
        trainer,
        kill=None,
        whole=pushed_from_a_used_directory,
        wants=CLEAN,
    ),
)
