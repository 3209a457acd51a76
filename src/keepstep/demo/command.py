"""`keepstep demo`: fine-tune, kill inside a save, resume, keep the best, prove that nothing was lost."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keepstep.cli.command import command
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.demo import scripts
from keepstep.errors import KeepstepError, SettingsError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

NEEDED = ("torch", "transformers", "trl", "peft", "datasets")
ASSETS = Path(__file__).parent / "assets"
_LIST = ""
"""The value of `--script` where no name follows."""


def _scripts_like(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    found = [name for name in scripts.names() if name.startswith(incomplete)]
    return [CompletionItem(name, help=scripts.sentence_of(name)) for name in found]


@command(
    "demo",
    examples=[
        ("keepstep demo", "on the embedded model and text, in about two minutes"),
        ("keepstep demo --model meta-llama/Llama-3.2-1B --data notes.txt", "on your own model and text"),
        ("keepstep demo --keep runs/demo", "keep both runs, to look at them while and after: keepstep ui runs/demo"),
        ("keepstep demo --mirror", "the whole machine is lost, and an empty one goes on, in less than a minute"),
        ("keepstep demo --script", "the example programs, with a sentence on each"),
        ("keepstep demo --script sft_lora > train.py", "one of them, to begin with"),
    ],
)
@click.option("--model", type=str, help="A causal language model: a directory or the name of a cached hub model.")
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A text file in UTF-8.")
@click.option("--keep", type=click.Path(path_type=Path), help="A new directory for both runs; else they go.")
@click.option(
    "--mirror", is_flag=True, help="Lose the whole directory too, and go on from a mirror: an S3 server of its own."
)
@click.option(
    "--script",
    metavar="[NAME]",
    is_flag=False,
    flag_value=_LIST,
    shell_complete=_scripts_like,
    help="Print an example program, or without a NAME the list of them, and run nothing.",
)
def demo(model: str | None, data: Path | None, keep: Path | None, script: str | None, *, mirror: bool) -> None:
    """Two real trainings of the same thing start side by side. One is left alone. The other is killed with SIGKILL in
    the middle of writing a checkpoint, and resumed by a new process. In the end both are compared, byte by byte.
    """
    if script is not None:
        if mirror or any(given is not None for given in (model, data, keep)):
            raise SettingsError("--script prints a program and runs nothing", hint="Give it without other options.")
        _print_script(script)
        return
    _need_packages()
    if (model is None) != (data is None):
        raise SettingsError("--model and --data go together", hint="Give both, or none for the embedded ones.")
    if model is not None and model.startswith((".", "/", "~")) and not Path(os.path.expanduser(model)).is_dir():
        raise SettingsError(
            f"{model} is no directory", hint="Give a model's directory, or the name of a cached hub model."
        )
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise SettingsError(f"{keep} is not empty", hint="Name a new directory.")
    from keepstep.demo.second_home import second_home
    from keepstep.demo.stage import Stage

    home = keep or Path(tempfile.mkdtemp(prefix="keepstep-demo-"))
    home.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        chosen = (
            os.path.expanduser(model) if model else str(ASSETS / "model"),
            data or ASSETS / "finetune.txt",
        )
        with second_home(home / "mirror") if mirror else nullcontext() as second:
            same = Stage(home, *chosen, embedded=model is None, mirror=second).play()
    finally:
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)
    click.echo(
        f"\n{time.monotonic() - began:.0f} seconds."
        + (f" Both runs are in {keep}: see them with `keepstep ui {shlex.quote(str(keep))}`." if keep else "")
    )
    if not same:
        raise KeepstepError("the resumed run differs from the uninterrupted one; see the table above")


def _print_script(name: str) -> None:
    if name != _LIST:
        click.echo(scripts.text_of(name), nl=False)
        return
    output = Output("auto")
    columns = (Column("Script", essential=True), Column("What it shows", folds=True))
    rows = [(Cell.of(known), Cell.of(scripts.sentence_of(known))) for known in scripts.names()]
    output.table(Table(columns, tuple(rows)))
    output.note("One of them, to begin with: keepstep demo --script sft_lora > train.py")


def _need_packages() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"the demonstration needs {', '.join(missing)}",
            hint='Install it: pip install "keepstep[demo]" (or run `make demo` in a checkout)',
        )
