"""Two users: what one has trained, another reads as far as the modes let him, and else hears whose it is."""

from __future__ import annotations

import os
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from keepstep.cli import commands
from keepstep.cli.main import main
from keepstep.run import Run
from tests.small_run import make_run
from tests.stock.written import run_of

COLLEAGUE = 65534
GROUP = 4321
COMMANDS = (
    ["ls"], ["show", "4"], ["best"], ["resume"], ["verify"], ["events"], ["prune", "--dry-run"],
    ["ls", "--all"],
)  # fmt: skip
Ask = Callable[..., tuple[int, str]]

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that everybody reaches, of a group that the colleague is in."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        path = Path(directory)
        os.chown(path, -1, GROUP)
        path.chmod(0o2755)
        yield path.resolve()


@pytest.fixture
def ask() -> Ask:
    """Run `keepstep` as the colleague; returns the exit code and what was said."""
    # The colleague need not be able to read this Python: what is imported late is imported now.
    late = [
        "grp",
        "pwd",
        "filelock",
        "rich.console",
        "rich.table",
        "rich.progress",
        "rich.text",
        "asyncio",
        "encodings.cp437",
    ]
    for name in (*late, *(f"{commands.__name__}.{found.name}" for found in pkgutil.iter_modules(commands.__path__))):
        import_module(name)

    def ask(*arguments: object) -> tuple[int, str]:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(GROUP)
                os.setuid(COLLEAGUE)
                result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="keepstep")
                text = f"{result.output}{result.stderr}"
                if result.exception is not None and not isinstance(result.exception, SystemExit):
                    text += f"BUG {result.exception!r}"
                os.write(writer, text.encode()[:60_000])
                os._exit(result.exit_code)
            finally:
                os._exit(99)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read().decode()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text

    return ask


def under(mask: int, work: Callable[[], Run]) -> Run:
    """Do work under an umask."""
    before = os.umask(mask)
    try:
        return work()
    finally:
        os.umask(before)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_whom_the_umask_lets_reads_all(home: Path, ask: Ask, words: list[str]) -> None:
    """With the usual umask every reading command answers the colleague as it answers the owner."""
    run = under(0o027, lambda: make_run(home / "run", 2, 4))
    code, text = ask(words[0], run.path, *words[1:])
    assert (code, "BUG" in text) == (0, False), text


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_who_may_not_read_hears_whose_it_is(home: Path, ask: Ask, words: list[str]) -> None:
    """A private umask: which directory, whose, with which mode, and what opens it; never that no run is there."""
    run = under(0o077, lambda: make_run(home / "run", 2, 4))
    code, text = ask(words[0], run.path, *words[1:])
    assert code == 8, text
    assert f"{run.path} belongs to user root" in text
    assert "drwx--S---" in text
    assert f"chmod -R g+rX {run.path}" in text
    assert "no run" not in text


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_run_of_before_with_a_private_corner(home: Path, ask: Ask, words: list[str]) -> None:
    """Runs of an older keepstep have a `.keepstep` for their owner alone: that is what is named."""
    run = under(0o022, lambda: make_run(home / "run", 2, 4))
    (run.path / ".keepstep").chmod(0o700)
    code, text = ask(words[0], run.path, *words[1:])
    assert code == 8, text
    assert f"{run.path / '.keepstep'} belongs to user root" in text


@pytest.mark.parametrize("command", ["verify", "resume", "best"])
def test_a_file_that_may_not_be_read_is_no_damage(home: Path, ask: Ask, command: str) -> None:
    """It is named as what it is, and nothing is set aside or put down as damaged."""
    run = under(0o022, lambda: make_run(home / "run", 2, 4))
    secret = run.path / "checkpoint-4" / "model.bin"
    secret.chmod(0o600)
    code, text = ask(command, run.path)
    assert code == 8, text
    assert f"{secret} can't be read by user" in text
    assert "damaged" not in text
    assert not any(c.damage for c in Run.open(run.path).checkpoints)


def test_a_checkpoint_that_may_not_be_read_is_named_in_the_list(home: Path, ask: Ask) -> None:
    run = under(0o022, lambda: make_run(home / "run", 2, 4))
    (run.path / "checkpoint-4").chmod(0o700)
    code, text = ask("ls", run.path)
    assert code == 0, text
    assert "belongs to user root" in " ".join(text.split())


@pytest.mark.parametrize(
    "words", [["pin", "2"], ["prune", "--keep", "latest:1", "--yes"], ["thin", "2"]], ids=lambda w: w[0]
)
def test_who_may_not_write_hears_it(home: Path, ask: Ask, words: list[str]) -> None:
    run = under(0o022, lambda: make_run(home / "run", 2, 4, 6))
    code, text = ask(words[0], run.path, *words[1:])
    assert code == 8, text
    assert "can't be written by user" in text
    assert "belongs to user root" in text


def test_a_group_that_may_write_does(home: Path, ask: Ask) -> None:
    """A shared directory (setgid, umask 002): the colleague pins and prunes in what the other has trained."""
    home.chmod(0o2775)
    run = under(0o002, lambda: make_run(home / "run", 2, 4, 6))
    for words in (["pin", "2"], ["verify"], ["prune", "--keep", "latest:1", "--yes"]):
        code, text = ask(words[0], run.path, *words[1:])
        assert code == 0, text
    assert [c.step for c in Run.open(run.path).checkpoints] == [2, 6]


@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_what_takes_up_room_and_may_not_be_read_is_said(home: Path, ask: Ask, mask: int) -> None:
    run = under(mask, lambda: make_run(home / "run", 2, 4))
    (run.path / ".keepstep").chmod(0o700)
    _, text = ask("du", home)
    assert "could not be read, and is not counted" in text


@pytest.mark.parametrize("closed", ["", "model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_the_newest_of_a_stock_run_that_can_not_be_read_is_passed_over_in_these_words(
    home: Path, ask: Ask, closed: str
) -> None:
    run = home / "stock"
    run_of(run, [2, 4, 6])
    (run / "checkpoint-6" / closed).chmod(0)
    code, text = ask("resume", run)
    assert (code, "BUG" in text) == (0, False), text
    what = "that directory" if not closed else "that file"
    assert f"passed over: checkpoint-6 (generation 3): {closed or '.'} can't be read by user" in text
    assert f": {what} belongs to user root" in text and "have it opened before you go on from an older one" in text
    assert text.split()[-1] == str(run / "checkpoint-4") or str(run / "checkpoint-4") in text
    code, text = ask("ls", run)
    assert code == 0 and "  unreadable  " in text and "torn" not in text
    code, text = ask("verify", run)
    assert code == 1 and "1 of 3 checkpoints can't be read." in text and "torn" not in text
    code, text = ask("doctor", run)
    assert code == 1 and "the newest checkpoint can't be read" in text and "torn" not in text
