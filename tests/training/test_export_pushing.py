"""Exports pushed to a hub: what arrives there, and what is said when it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import keepstep
from keepstep.errors import SettingsError
from keepstep.operations.export.errors import ExportRefused, PushFailed
from keepstep.operations.export.report import Export
from keepstep.run import Run
from tests.training.exported import adapted, files_in, llama, make_run
from tests.training.hub import TOKEN, Hub, hub

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, which this process takes for the real one."""
    with hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {10: llama(1)})


def _push(run: Run, out: Path, **options: Any) -> Export:
    return keepstep.export(run, out, reference=10, push="me/my-model", check=False, **options)


@pytest.mark.long
def test_every_byte_of_an_export_arrives(run: Run, server: Hub, tmp_path: Path) -> None:
    """In a process of its own, as a user's shell has it: the library reads its endpoint when it is imported."""
    out = tmp_path / "out"
    surroundings = {
        **os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-m", "keepstep", "export", str(run.path), "10", str(out), "--push", "me/my-model"]
    command += ["--private", "--revision", "v1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=surroundings)
    assert done.returncode == 0, done.stderr
    assert server.files == {name: (out / name).read_bytes() for name in files_in(out)}
    assert list(server.objects.values()) == [(out / "model.safetensors").read_bytes()]
    asked = server.repositories["me/my-model"]
    assert asked.get("private") is True or asked.get("visibility") == "private"
    assert (server.branches, server.committed_to, server.summaries) == ({"v1"}, ["v1"], ["Export of step 10"])
    assert f"pushed      {server.url}/me/my-model/commit/" in done.stdout
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("/api/repos/create", 403, r"the token may not write there \(403\)"),
        ("/preupload/", 403, r"the token may not write there \(403\)"),
        ("/preupload/", 404, r"no such repository, or the token can't see it \(404\)"),
        ("/objects/put/", 403, r"the token may not write there \(403\)"),
        ("/commit/", 400, "the hub answered 400"),
    ],
)
def test_a_push_that_is_refused_leaves_the_export(
    tmp_path: Path, server: Hub, run: Run, *, part: str, status: int, said: str
) -> None:
    server.refuse[part] = status
    with pytest.raises(PushFailed, match=said) as raised:
        _push(run, tmp_path / "out")
    assert f"hf upload me/my-model {tmp_path / 'out'}" in raised.value.hint
    assert server.committed_to == []
    assert "model.safetensors" in files_in(tmp_path / "out")


def test_a_wrong_token_is_said(run: Run, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "b" * 34)
    with pytest.raises(PushFailed, match=r"the token is not accepted \(401\)"):
        _push(run, tmp_path / "out")
    assert server.files == {}


def test_a_network_that_is_down_is_said(run: Run, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PushFailed, match="the hub was not reached"):
        _push(run, tmp_path / "out")
    assert "model.safetensors" in files_in(tmp_path / "out")


def test_what_can_not_be_pushed_is_found_before_anything_is_exported(
    run: Run, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama(1).save_pretrained(tmp_path / "base")
    adapter = make_run(tmp_path / "adapter", {10: adapted(tmp_path / "base")})
    out = tmp_path / "out"
    with pytest.raises(ExportRefused, match="names its base by a path of this machine"):
        _push(adapter, out)
    with pytest.raises(SettingsError, match="no name of a repository"):
        keepstep.export(run, out, reference=10, push="a/b/c")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match="HF_HUB_OFFLINE is set"):
        _push(run, out)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SettingsError, match="without a token"):
        _push(run, out)
    assert server.requests == []
    assert not out.exists()
