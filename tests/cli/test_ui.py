"""`keepstep ui`: what it prints, and what it says of wrong usage; the page itself is tested in tests/web."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Call
from tests.operations.runs import make_run


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    return make_run(tmp_path / "a", {1: 0.5}).path


@pytest.mark.parametrize("arguments", [["--no-open"], []])
@pytest.mark.parametrize("graphical", [True, False])
def test_the_first_line_is_the_link(run_path: Path, arguments: list[str], graphical: bool) -> None:
    browser = run_path.parent / "bin" / "xdg-open"
    browser.parent.mkdir()
    browser.write_text('#!/bin/sh\necho "$1" > "$OPENED"\n')
    browser.chmod(0o755)
    opened = run_path.parent / "opened"
    environment = {name: os.environ[name] for name in os.environ if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"PATH": f"{browser.parent}:{os.environ['PATH']}", "OPENED": str(opened)}
    environment |= {"DISPLAY": ":0"} if graphical else {}
    environment.pop("SSH_CONNECTION", None)
    command = [sys.executable, "-m", "keepstep", "ui", str(run_path), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        link = process.stdout.readline().strip()
        with httpx.Client(trust_env=False, timeout=20, follow_redirects=False) as client:
            assert client.get(link).status_code == 303
            assert client.get(link.partition("?")[0] + "api/about").json()["writable"] is False
        process.send_signal(2)
        assert process.wait(20) == 0
        assert process.stdout.read() == ""
        said = process.stderr.read()
    assert "no run" not in said
    assert ("no browser here" in said) is (not graphical and not arguments)
    assert opened.exists() is (graphical and not arguments)
    if opened.exists():
        assert opened.read_text().strip() == link


def test_for_programs_the_first_line_is_json(run_path: Path) -> None:
    command = [sys.executable, "-m", "keepstep", "ui", str(run_path), "--no-open", "--allow-write", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        assert httpx.get(found["url"], trust_env=False, timeout=20).status_code == 303
        process.send_signal(2)
        assert process.wait(20) == 0
    assert found["writable"] is True and found["url"].startswith(f"http://127.0.0.1:{found['port']}/?token=")


def test_without_the_extra_it_says_what_to_install(call: Call, run_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.cli.commands.ui.find_spec", lambda name: None)
    result = call("ui", run_path)
    assert result.exit_code == 2
    assert "the page needs starlette and uvicorn" in result.stderr and 'pip install "keepstep[web]"' in result.stderr


def test_a_port_in_use_and_a_place_that_is_none(call: Call, run_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        result = call("ui", run_path, "--no-open", "--port", other.getsockname()[1])
    assert result.exit_code == 1 and "in use" in result.stderr and "--port" in result.stderr
    assert call("ui", run_path.parent / "nothing", "--no-open").exit_code == 3
    assert call("ui", run_path, "--port", "70000").exit_code == 2


def test_a_place_without_any_run_is_said_and_shown(run_path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "keepstep", "ui", str(tmp_path / "empty"), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        link = process.stdout.readline().strip()
        said = process.stderr.readline()
        with httpx.Client(trust_env=False, timeout=20) as client:
            client.get(link)
            address = link.partition("?")[0] + "api/runs"
            assert client.get(address).json()["runs"] == []
        process.send_signal(2)
        assert process.wait(20) == 0
    assert said == f"note: there is no run in or below {tmp_path / 'empty'}; one that begins there is shown\n"


def test_help_imports_no_server() -> None:
    script = "import sys; from keepstep.cli.main import main\ntry: main(['ui', '--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert not {"starlette", "uvicorn", "asyncio", "torch"} & set(done.stdout.split())


def test_the_page_needs_no_torch(run_path: Path) -> None:
    script = (
        "import sys; from keepstep.web.server import PageServer; from pathlib import Path\n"
        "PageServer([Path(sys.argv[1])]); print(*sys.modules)"
    )
    command = [sys.executable, "-c", script, str(run_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert not {"torch", "numpy", "transformers"} & set(done.stdout.split())
