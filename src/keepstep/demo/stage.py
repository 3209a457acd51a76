"""What the demonstration shows, act by act: two trainings, a kill, a resume, the checkpoints, the proof."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from keepstep.cli.commands.ls import checkpoint_table
from keepstep.cli.drawing.render import Output
from keepstep.demo.processes import Event, Worker, listen
from keepstep.demo.proof import Comparison, compare
from keepstep.demo.recipe import BRIEF, EMBEDDED, for_model
from keepstep.demo.second_home import SecondHome
from keepstep.demo.worker import Job
from keepstep.mirror import open_mirror
from keepstep.operations.seeing.listing import list_checkpoints
from keepstep.run import Run

WIDTH = 100
KILL_AFTER = 0.6
"""The share of the training after which it is killed."""


class Stage:
    """Plays the demonstration in one directory. stdout gets the story, stderr the moving progress bars."""

    def __init__(self, home: Path, model: str, data: Path, *, embedded: bool, mirror: SecondHome | None = None) -> None:
        """With a mirror the machine is lost, not only the process, and the samples at the end are left out."""
        self.home, self.model, self.data = home, model, data
        self.embedded = embedded
        self.mirror = mirror
        own = BRIEF if mirror else EMBEDDED
        self.recipe = own if embedded else for_model(_parameter_count(model))
        self.console = Console(highlight=False)
        self.console.width = min(self.console.width, WIDTH)
        every = self.recipe.eval_every_steps
        self.kill_at = max(round(self.recipe.steps * KILL_AFTER / every), 2) * every
        self.calm, self.struck = home / "uninterrupted", home / "interrupted"

    def play(self) -> bool:
        """Run all acts; True when both runs ended the same."""
        self._introduce()
        killed = self._train_both()
        if self.mirror is None:
            self._show_wreck(killed)
        else:
            self._lose_the_machine(killed, self.mirror)
        receipt = self._resume()
        self._show_checkpoints()
        self._show_receipt(receipt)
        results = compare(Run.open(self.calm), Run.open(self.struck))
        self._show_proof(results)
        if self.mirror is None:
            self._show_sentences()
        return all(result.same for result in results)

    # -- acts ------------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        recipe = self.recipe
        model, text = ("the embedded model", "the embedded text") if self.embedded else (self.model, self.data)
        self.console.print(
            f"[bold]Fine-tuning[/bold] {model} with TRL's SFTTrainer and LoRA (rank {recipe.lora_rank}) on {text}: "
            f"{recipe.steps} steps, evaluated and saved every {recipe.eval_every_steps}, "
            f"save_total_limit=3, metric eval_loss.\nThe one line that was added: "
            f"[bold cyan]keepstep.attach(trainer{', mirror=…' if self.mirror else ''})[/bold cyan]\n"
        )
        if self.mirror is not None:
            self.console.print(Text(f"The mirror is {self.mirror.address}, {self.mirror.what}.\n"))

    def _train_both(self) -> Event:
        with self._progress() as progress:
            calm_bar, struck_bar = self._bar(progress, "left alone"), self._bar(progress, "to be killed")
            calm = Worker(self._job(self.calm), self.home / "uninterrupted.log")
            struck = Worker(self._job(self.struck, kill_at=self.kill_at), self.home / "interrupted.log")
            killed: list[Event] = []

            def on_struck(event: Event) -> None:
                killed.extend([event] if event["event"] == "killed" else [])
                self._move(progress, struck_bar, event)

            try:
                listen({calm: lambda event: self._move(progress, calm_bar, event), struck: on_struck})
                struck.finish(killed=True)
                calm.finish(killed=False)
            finally:
                calm.stop()
                struck.stop()
        return killed[0]

    def _show_wreck(self, killed: Event) -> None:
        run = Run.open(self.struck)
        steps = ", ".join(str(checkpoint.step) for checkpoint in run.checkpoints)
        self.console.print(
            f"[bold red]SIGKILL[/bold red] inside the save of step {killed['step']}: {killed['written']:,} of "
            f"{killed['of']:,} bytes of {killed['file']} were written.\nNo half checkpoint is to be seen: the run has "
            f"steps {steps}. [bold]keepstep resume[/bold] says: {run.resume_point().reason}.\n"
        )

    def _lose_the_machine(self, killed: Event, home: SecondHome) -> None:
        mirror = open_mirror(home.address)
        steps = ", ".join(str(record.checkpoint.step) for record in reversed(mirror.records()))
        shutil.rmtree(self.struck)
        self.console.print(
            f"[bold red]The machine is lost[/bold red]: SIGKILL inside the save of step {killed['step']}, and the "
            f"whole directory of the run is removed.\nThe mirror {mirror.url} has steps {steps}. An empty machine "
            'begins, with the same line and resume_from_checkpoint="auto".\n'
        )

    def _resume(self) -> Event:
        done: list[Event] = []
        with self._progress() as progress:
            bar = self._bar(progress, "resumed")
            worker = Worker(self._job(self.struck), self.home / "resumed.log")

            def on_event(event: Event) -> None:
                done.extend([event] if event["event"] == "done" else [])
                self._move(progress, bar, event)

            try:
                listen({worker: on_event})
                worker.finish(killed=False)
            finally:
                worker.stop()
        return done[0]

    def _show_checkpoints(self) -> None:
        self.console.rule("[bold]keepstep ls", style="dim")
        Output("human").table(checkpoint_table(list_checkpoints(Run.open(self.struck))).informative())

    def _show_receipt(self, done: Event) -> None:
        text = "\n".join(done["receipt"])
        colour = "green" if done["level"] == "exact" else "yellow"
        self.console.print(Panel(Text(text), title="receipt", border_style=colour))

    def _show_proof(self, results: list[Comparison]) -> None:
        what = "lost and resumed" if self.mirror else "killed and resumed"
        table = Table(title=f"{what.capitalize()}, against left alone", title_style="bold", box=None, pad_edge=False)
        for name in ("", "left alone", what, ""):
            table.add_column(name)
        for result in results:
            mark = Text("the same", "green") if result.same else Text("DIFFERENT", "bold red")
            table.add_row(result.what, result.one, result.other, mark)
        self.console.print(table)
        same = all(result.same for result in results)
        verdict = "Bit for bit the same." if same else "Not the same."
        self.console.print(Text(verdict, "bold green" if same else "bold red"), end="\n\n")

    def _show_sentences(self) -> None:
        run = Run.open(self.struck)
        best, latest = run.best, run.latest
        assert best is not None and latest is not None
        names = {f"best, step {best.step}": str(best.path), f"last, step {latest.step}": str(latest.path)}
        worker = Worker(self._job(self.struck, samples=names), self.home / "samples.log")
        sentences: list[Event] = []
        try:
            with self.console.status("two sentences"):
                listen({worker: sentences.append})
            worker.finish(killed=False)
        finally:
            worker.stop()
        for sentence in sentences:
            self.console.print(Text.assemble((f"{sentence['name']}: ", "bold"), " ".join(sentence["text"].split())))

    # -- helpers ---------------------------------------------------------------------------------------

    def _job(self, run: Path, *, kill_at: int | None = None, samples: dict[str, str] | None = None) -> Job:
        task = "sample" if samples else "train"
        mirror = self.mirror.address if self.mirror and run == self.struck else None
        return Job(task, self.model, str(self.data), str(run), asdict(self.recipe), kill_at, samples or {}, mirror)

    def _progress(self) -> Progress:
        note = TextColumn("{task.fields[note]}")
        columns = (TextColumn("{task.description:14}"), BarColumn(24), note, TimeElapsedColumn())
        return Progress(*columns, console=Console(stderr=True, highlight=False))

    def _bar(self, progress: Progress, name: str) -> TaskID:
        return progress.add_task(name, total=self.recipe.steps, note="starting: loading torch")

    def _move(self, progress: Progress, bar: TaskID, event: Event) -> None:
        kind = event["event"]
        if kind == "step":
            progress.update(bar, completed=event["step"])
        elif kind == "eval":
            progress.update(bar, note=f"step {event['step']:3} eval_loss {event['loss']:.4f}")
        elif kind == "killed":
            progress.update(bar, note=f"SIGKILL inside the save of step {event['step']}")
            progress.stop_task(bar)
        elif kind == "ready":
            progress.update(bar, note="training")


def _parameter_count(model: str) -> int:
    """A rough count from config.json: enough to choose a recipe."""
    file = Path(model) / "config.json"
    if not file.is_file():
        return 1_000_000_000
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    width, layers = int(config.get("hidden_size", 768)), int(config.get("num_hidden_layers", 12))
    return int(config.get("vocab_size", 32000)) * width + 12 * layers * width * width
