"""`keepstep demo --script`: the example programs, listed and printed, without anything that trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keepstep.cli.main import main
from keepstep.demo import scripts

EXAMPLES = Path(__file__).parents[2] / "examples"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["demo", *arguments], prog_name="keepstep")


@pytest.fixture(params=["checkout", "installed"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the examples are looked for."""
    if request.param == "checkout":
        return EXAMPLES
    for path in EXAMPLES.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(scripts, "_INSTALLED", tmp_path)
    monkeypatch.setattr(scripts, "_CHECKOUT", tmp_path / "nothing")
    return tmp_path


def test_the_list_has_a_sentence_on_each(place: Path) -> None:
    done = call("--script")
    assert done.exit_code == 0
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()[1:]]
    assert [name for name, _ in rows] == sorted(path.stem for path in place.glob("*.py"))
    assert "sft_lora" in dict(rows) and all(sentence.endswith(".") for _, sentence in rows)
    assert "keepstep demo --script sft_lora > train.py" in done.stderr


@pytest.mark.parametrize("name", ["sft_lora", "hooks", "sft_lora.py"])
def test_a_script_is_printed_as_it_is(place: Path, name: str) -> None:
    done = call("--script", name)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (place / f"{name.removesuffix('.py')}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "meant"), [("sft_lor", " Did you mean 'sft_lora'?"), ("../pyproject", "")])
def test_a_name_that_is_none_is_answered_with_those_there_are(place: Path, name: str, meant: str) -> None:
    done = call("--script", name)
    assert (done.exit_code, done.stdout) == (2, "")
    known = ", ".join(scripts.names())
    assert done.stderr == f"keepstep: there is no example {name!r}\n  The examples are {known}.{meant}\n"


def test_it_goes_with_no_other_option(tmp_path: Path) -> None:
    done = call("--script", "--keep", str(tmp_path / "both"))
    assert done.exit_code == 2 and "--script prints a program and runs nothing" in done.stderr
    assert not (tmp_path / "both").exists()


def test_it_is_in_the_help() -> None:
    assert "keepstep demo --script sft_lora > train.py" in call("--help").stdout


def test_a_shell_completes_the_names() -> None:
    environment = {"_KEEPSTEP_COMPLETE": "zsh_complete", "COMP_WORDS": "keepstep demo --script s", "COMP_CWORD": "3"}
    done = CliRunner().invoke(main, prog_name="keepstep", env=environment)
    assert "sft_lora" in done.stdout and "hooks" not in done.stdout


def test_it_needs_nothing_that_trains() -> None:
    program = (
        "import sys; from keepstep.cli.main import main\n"
        "try: main(['demo', '--script', 'sft_lora'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not {"torch", "transformers", "trl", "datasets"} & set(done.stderr.split())
