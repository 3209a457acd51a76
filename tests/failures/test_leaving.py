"""What leaves the machine: pushes to the Hub, and runs that come back from there, or from a copy, as they can."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants, hf_api
from huggingface_hub.utils import _http
from transformers import TrainerCallback

from keepstep import layout
from keepstep.errors import ResumeRefused, StorageError
from keepstep.run import Exactness, Run
from tests.failures.build import At, crash, files, managed, names, receipt, same, stock, train, weights
from tests.training.hub import TOKEN, Hub, hub

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

OURS_ALONE = {"keepstep.json", "keepstep_imprint.mpz", "keepstep_state.json"}
PUSHING: dict[str, Any] = {"push_to_hub": True, "hub_model_id": "me/mine", "hub_token": TOKEN, "hub_always_push": True}
SHORT = {**PUSHING, "max_steps": 6}


long = pytest.mark.long
VARIED = (pytest.param("end", marks=long), pytest.param("every_save", marks=long), "checkpoint", "all_checkpoints")


@contextmanager
def taken_for_the_real_one(home: Path) -> Iterator[Hub]:
    """A hub, which this process takes for the real one."""
    with hub() as running, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        # The stock Trainer writes over what it uploads: the library tries that again after seconds, five times.
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.05))))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(hf_api.api, "endpoint", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        library = importlib.import_module("transformers.utils.hub")
        if hasattr(library, "_hf_api"):
            monkeypatch.setattr(library, "_hf_api", None)
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    """A hub of this test's own."""
    with taken_for_the_real_one(tmp_path) as running:
        yield running


Pushed = Callable[..., Hub]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    """What a training that crashed after step 5 has pushed by a strategy, to be looked at and downloaded."""

    @cache
    def push(strategy: str, *, attached: bool = True) -> Hub:
        home = tmp_path_factory.mktemp("pushed")
        with taken_for_the_real_one(home) as running:
            crash(home / "there", after=5, attached=attached, hub_strategy=strategy, **PUSHING)._finish_current_push()
        return running

    return push


def arrived(server: Hub) -> set[str]:
    """Paths in the repository, without what the training itself says of a model."""
    found = set(server.files)
    server.files.clear()
    return found


# -- pushes ----------------------------------------------------------------------------------------------------


def used(out: Path) -> None:
    """An output_dir in which a lot has happened: a run set aside, a trial, a download, a file of the user's."""
    train(out, max_steps=2, save_steps=1, eval_steps=1)
    (out / "run-0" / "checkpoint-2").mkdir(parents=True)
    (out / "run-0" / "checkpoint-2" / "optimizer.pt").write_bytes(b"a trial's")
    shutil.copytree(out / "checkpoint-2", out / "last-checkpoint")
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("the user's")


@pytest.mark.parametrize("strategy", VARIED)
@pytest.mark.quick(1)
def test_what_a_push_takes_along(out: Path, server: Hub, strategy: str) -> None:
    """The model, its card, the user's files; a checkpoint where the strategy asks for one, and that one whole."""
    stock(out.with_name("stock"), hub_strategy=strategy, **SHORT).train()
    theirs = arrived(server)
    used(out)
    train(out, fresh="new-run", keep="latest:1,best:2", hub_strategy=strategy, **SHORT)
    assert any(name.startswith("weights-") for name in names(out)), "something that must stay here"
    mine = arrived(server) - {"notes/mine.txt"}
    known = mine - {path for path in mine if Path(path).name in OURS_ALONE and "/" in path}
    assert known == theirs
    assert {path.rpartition("/")[0] for path in mine - known} == {
        path.rpartition("/")[0] for path in theirs if path.endswith("optimizer.pt")
    }


@pytest.mark.parametrize("how", ["push_to_hub", "save_model"])
def test_a_push_by_hand_takes_the_model_along(out: Path, server: Hub, how: str) -> None:
    reference = stock(out.with_name("stock"), hub_strategy="end", **SHORT)
    reference.train()
    getattr(reference, how)()
    theirs = arrived(server)
    used(out)
    trainer, _ = train(out, fresh="new-run", keep="latest:1,best:2", hub_strategy="end", **SHORT)
    getattr(trainer, how)()
    assert arrived(server) == theirs | {"notes/mine.txt"}
    assert "README.md" in theirs


def test_a_push_without_push_to_hub(out: Path, server: Hub) -> None:
    """`trainer.push_to_hub()` of a training that pushed nothing makes the repository itself, with the token given."""
    trainer, _ = train(out, hub_model_id="me/other", hub_token=TOKEN, max_steps=2)
    trainer.push_to_hub()
    assert {"model.safetensors", "README.md"} <= set(server.files)
    assert not any(Path(path).name in OURS_ALONE or ".keepstep" in path for path in server.files)


@pytest.mark.parametrize("strategy", VARIED)
@pytest.mark.quick(1)
def test_no_push_takes_the_token_along(out: Path, server: Hub, strategy: str) -> None:
    trainer, _ = train(out, hub_strategy=strategy, **SHORT)
    trainer.push_to_hub()
    assert [path for path, data in server.files.items() if TOKEN.encode() in data] == []
    assert trainer.args.hub_token == TOKEN


@pytest.mark.long
def test_a_stock_push_takes_the_token_along(out: Path, server: Hub) -> None:
    """The control: `training_args.bin` of a stock push has the token in it."""
    stock(out, hub_strategy="every_save", **SHORT).train()
    assert TOKEN.encode() in server.files["training_args.bin"]


def test_what_is_recorded_of_the_arguments_is_what_the_user_gave(out: Path, server: Hub) -> None:
    train(out, hub_strategy="every_save", save_total_limit=2, **SHORT)
    stored = torch.load(server.download("", out.with_name("hub")) / "training_args.bin", weights_only=False)
    assert (stored.save_total_limit, stored.hub_token) == (2, None)


def test_what_is_recorded_after_a_training_is_what_the_arguments_say_then(out: Path) -> None:
    trainer, _ = train(out, max_steps=2, save_total_limit=2, hub_token=TOKEN)
    trainer.args.save_total_limit = 7
    trainer.save_model(str(out.with_name("model")))
    stored = torch.load(out.with_name("model") / "training_args.bin", weights_only=False)
    assert (stored.save_total_limit, stored.hub_token) == (7, None)


def test_an_upload_of_the_folder_leaves_our_own_room_here(out: Path, server: Hub) -> None:
    """The user's own call: the checkpoints are in the folder that he named; what is in .keepstep serves nobody else."""
    train(out, max_steps=4)
    HfApi(token=TOKEN).upload_folder(repo_id="me/all", folder_path=str(out))
    there = server.download("", out.with_name("downloaded"))
    assert files(there) == {path: data for path, data in files(out).items() if not path.startswith(layout.META)}
    run = Run.open(there)
    assert ([checkpoint.step for checkpoint in run.checkpoints], run.id) == ([2, 4], Run.open(out).id)


def test_a_model_saved_elsewhere_is_a_model(out: Path) -> None:
    """`save_model(directory)` and `create_model_card` write what the stock ones write."""
    reference, target = stock(out.with_name("stock")), out.with_name("model")
    reference.train()
    reference.save_model(str(out.with_name("theirs")))
    reference.create_model_card()
    trainer, _ = train(out)
    trainer.save_model(str(target))
    trainer.create_model_card()
    assert files(target).keys() == files(out.with_name("theirs")).keys()
    cards = [(place / "README.md").read_text() for place in (out, out.with_name("stock"))]
    assert cards[0].replace("run", "stock") == cards[1]


@pytest.mark.parametrize("strategy", ["checkpoint", pytest.param("all_checkpoints", marks=long)])
def test_what_is_being_uploaded_stays(out: Path, server: Hub, strategy: str) -> None:
    """The Hub is slow, and the policy keeps one: the checkpoint goes when it is there, not before."""
    seen: dict[int, list[str]] = {}
    server.open.clear()

    def look(step: int) -> Callable[..., None]:
        return lambda **_: seen.update({step: names(out)}) or (step == 8 and server.open.set())

    looks = [At(step, look(step)) for step in (5, 8)]
    train(out, keep="latest:1", hub_strategy=strategy, callbacks=looks, **PUSHING)
    assert seen[5] == ["checkpoint-2", "checkpoint-4"]
    assert [name for name in names(out) if name.startswith("checkpoint")] == ["checkpoint-12"]
    arrived_from = "last-checkpoint" if strategy == "checkpoint" else "checkpoint-2"
    assert f"{arrived_from}/optimizer.pt" in server.files


class Adds(TrainerCallback):
    """Writes a file of its own into each checkpoint, when what was pushed before has arrived."""

    trainer: Any = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if getattr(self.trainer, "push_in_progress", None) is not None:
            self.trainer.push_in_progress.wait_until_done()
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "ema.pt").write_bytes(b"average")


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_a_push_takes_along_what_callbacks_wrote(out: Path, server: Hub, strategy: str) -> None:
    """The manifest on the Hub is the one that was sealed after them."""
    trainer, _ = managed(out, callbacks=[adds := Adds()], max_steps=4, hub_strategy=strategy, **PUSHING)
    adds.trainer = trainer
    trainer.train()
    name = "last-checkpoint" if strategy == "checkpoint" else "checkpoint-4"
    manifest = json.loads(server.files[f"{name}/keepstep.json"])
    listed = {entry["path"]: entry["size"] for entry in manifest["files"]}
    assert listed == {path: len(server.files[f"{name}/{path}"]) for path in listed}
    assert listed["ema.pt"] == len(b"average")


def test_a_push_that_fails_ends_no_training(out: Path, server: Hub) -> None:
    """As stock: the jobs of the background keep their errors; nothing stays held for them."""
    server.refuse["/preupload/"] = 403
    train(out, keep="latest:1", hub_strategy="checkpoint", **SHORT)
    assert [name for name in names(out) if name.startswith("checkpoint")] == ["checkpoint-6"]
    assert Run.open(out).readers.read() == {}


# -- what comes back -------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Path], tuple[Path, Any]]] = {
    "elsewhere": lambda out: (out.with_name("download"), out.with_name("download")),
    "inside, by its path": lambda out: (out / "last-checkpoint", out / "last-checkpoint"),
    "inside, by its name": lambda out: (out / "last-checkpoint", "last-checkpoint"),
    "inside, the newest": lambda out: (out / "last-checkpoint", "auto"),
    "inside, True": lambda out: (out / "last-checkpoint", True),
    "renamed, by its path": lambda out: (out / "checkpoint-4", out / "checkpoint-4"),
    "renamed, by its step": lambda out: (out / "checkpoint-4", 4),
    "renamed, the newest": lambda out: (out / "checkpoint-4", "auto"),
    "renamed, best": lambda out: (out / "checkpoint-4", "best"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.quick(2)
def test_a_last_checkpoint_resumes_wherever_it_was_downloaded(
    out: Path, pushed: Pushed, uninterrupted: dict[str, torch.Tensor], way: str
) -> None:
    target, reference = WAYS[way](out)
    pushed("checkpoint").download("last-checkpoint", target)
    trainer, checkpointer = train(out, resume=reference)
    assert receipt(checkpointer).level is Exactness.EXACT
    assert receipt(checkpointer).step == 4
    assert same(weights(trainer.model), uninterrupted)


def in_the_cache(server: Hub, cache: Path) -> Path:
    """A snapshot as huggingface_hub keeps it: every file a link to a blob beside the snapshots."""
    repository = cache / "models--me--mine"
    for path, data in server.files.items():
        blob = repository / "blobs" / hashlib.sha256(data).hexdigest()
        link = repository / "snapshots" / ("c" * 40) / path
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return repository / "snapshots" / ("c" * 40)


def test_a_last_checkpoint_resumes_from_the_cache_of_the_hub(
    out: Path, pushed: Pushed, uninterrupted: dict[str, torch.Tensor]
) -> None:
    """`snapshot_download` without a directory of its own."""
    snapshot = in_the_cache(pushed("checkpoint"), out.with_name("cache"))
    trainer, checkpointer = train(out, resume=snapshot / "last-checkpoint")
    assert receipt(checkpointer).level is Exactness.EXACT
    assert receipt(checkpointer).verified
    assert same(weights(trainer.model), uninterrupted)
    (snapshot / "last-checkpoint" / "optimizer.pt").resolve().write_bytes(b"damaged")
    with pytest.raises(ResumeRefused, match=r"is damaged: optimizer\.pt"):
        train(out.with_name("other"), resume=snapshot / "last-checkpoint")


def test_a_run_in_the_cache_of_the_hub_is_read_and_never_written(out: Path, pushed: Pushed) -> None:
    snapshot = in_the_cache(pushed("all_checkpoints"), out.with_name("cache"))
    run = Run.open(snapshot)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [2, 4]
    assert all(run.verify(checkpoint).ok for checkpoint in run.checkpoints)
    with pytest.raises(StorageError, match="lies in the Hub's cache"), run.writing():
        pass
    (snapshot / "checkpoint-4" / "scheduler.pt").unlink()
    (out.parent / "elsewhere.pt").write_bytes(pushed("all_checkpoints").files["checkpoint-4/scheduler.pt"])
    (snapshot / "checkpoint-4" / "scheduler.pt").symlink_to(out.parent / "elsewhere.pt")
    assert str(run.verify(run.find(4)).problems[0]) == "scheduler.pt is a link, not a regular file"


def test_a_last_checkpoint_of_stock_resumes_inside_the_output_dir(out: Path, pushed: Pushed) -> None:
    pushed("checkpoint", attached=False).download("last-checkpoint", out / "last-checkpoint")
    _, checkpointer = train(out, resume="auto")
    assert (receipt(checkpointer).step, receipt(checkpointer).verified) == (4, False)


def test_all_checkpoints_of_the_hub_are_a_run(
    out: Path, pushed: Pushed, uninterrupted: dict[str, torch.Tensor]
) -> None:
    """A whole repository downloaded as output_dir: what stock pushes leave beside the checkpoints is in no way."""
    pushed("all_checkpoints").download("", out)
    trainer, checkpointer = train(out, resume="auto")
    assert receipt(checkpointer).level is Exactness.EXACT
    assert same(weights(trainer.model), uninterrupted)


def test_a_copy_without_the_hidden_directory_goes_on(
    out: Path, said: Callable[[], str], uninterrupted: dict[str, torch.Tensor]
) -> None:
    """rsync --exclude '.*': the same run, from its manifests, and one line that says what was lost."""
    crash(out, after=7)
    run_id = Run.open(out).id
    shutil.copytree(out, out.with_name("copy"), ignore=shutil.ignore_patterns(".*"))
    said()
    trainer, checkpointer = train(out.with_name("copy"), resume="auto")
    lines = [line for line in said().splitlines() if "is rebuilt from the manifests" in line]
    assert len(lines) == 1
    assert "pins, tags, events" in lines[0]
    assert receipt(checkpointer).level is Exactness.EXACT
    assert checkpointer.run.id == run_id
    assert same(weights(trainer.model), uninterrupted)


def test_the_policy_and_the_best_come_along(out: Path) -> None:
    scores = {2: 0.1, 4: 0.9, 6: 0.2}
    crash(out, after=7, scores=scores, metric_for_best_model="accuracy", keep="best:1,latest:2")
    policy = Run.open(out).policy
    shutil.rmtree(out / layout.META)
    run = Run.open(out)
    assert run.policy == policy
    assert run.best is not None
    assert run.best.step == 4
