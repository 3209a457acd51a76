"""Records docs/terminal.svg: a real small training, interrupted and resumed, and commands on a terminal of their own.

    python tools/record_terminal.py            # a minute on two cores; needs the demo extra

The pictures are what the commands write; only the name of the font that rich would load from elsewhere is taken out.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
RUN = "runs/sft"
WIDTH, HEIGHT = 100, 44
COMMANDS = (["ls", RUN], ["resume", RUN], ["watch", RUN])
INTERRUPTED_AT = 38
DEMO = ROOT / "src" / "keepstep" / "demo" / "assets"


def main() -> None:
    """Train, record, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "terminal.svg")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train()
        return
    with tempfile.TemporaryDirectory() as home:
        for _ in range(2):
            subprocess.run([sys.executable, Path(__file__).resolve(), "--train"], cwd=home, check=True)
        console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (f"keepstep {' '.join(command)}", "bold")))
            console.print(Text.from_ansi(recorded(command, home)), soft_wrap=True)
            console.print()
    picture = console.export_svg(title="keepstep")
    picture = re.sub(r"@font-face\s*\{.*?\}\s*", "", picture, flags=re.DOTALL)
    arguments.out.write_text(picture, encoding="utf-8")
    print(f"{arguments.out}: {len(picture.encode()) / 1000:.0f} kB")


def train() -> None:
    """The demonstration's training, with every step logged; the first process is interrupted, the second goes on."""
    from dataclasses import asdict

    import torch
    from transformers import TrainerCallback

    import keepstep
    from keepstep.demo.recipe import EMBEDDED
    from keepstep.demo.worker import Job, Reporter, make_trainer

    torch.set_num_threads(1)
    resumes = Path(RUN).exists()
    job = Job("train", str(DEMO / "model"), str(DEMO / "finetune.txt"), RUN, asdict(EMBEDDED))
    trainer = make_trainer(job, Reporter(io.StringIO()))
    trainer.args.logging_steps = 1

    class Interrupt(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            if not resumes and trainer.state.global_step == INTERRUPTED_AT:
                raise KeyboardInterrupt

    trainer.add_callback(Interrupt())
    keepstep.attach(trainer, keep="best:2,latest:1,every:24")
    try:
        trainer.train(resume_from_checkpoint="auto")
    except KeyboardInterrupt:
        return


def recorded(command: list[str], home: str) -> str:
    """What a command shows on a terminal; of a live display the last frame, before q is pressed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        os.environ.update({"TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": str(ROOT / "src")})
        program = "from keepstep.cli.main import main; main(prog_name='keepstep')"
        os.execv(sys.executable, [sys.executable, "-c", program, *command])  # noqa: S606 - no shell is wanted
    shown, asked, begun = b"", False, time.monotonic()
    while True:
        if command[0] == "watch" and not asked and time.monotonic() - begun > 5:
            asked = bool(os.write(terminal, b"q"))
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.waitpid(pid, 0)
    text = shown.decode().replace("\r\n", "\n")
    if "\x1b[?1049h" in text:
        text = text.partition("\x1b[?1049h")[2].partition("\x1b[?25h")[0].split("\x1b[H")[-1]
    return "\n".join(line.rstrip() for line in left_on_screen(text))


def left_on_screen(text: str) -> list[str]:
    """The lines that stay: a progress bar that is gone at the end was erased, line by line."""
    lines = [""]
    for part in re.split(r"(\n|\r|\x1b\[[0-9]*[AK]|\x1b\[\?[0-9]+[hl])", text):
        if part == "\n":
            lines.append("")
        elif part == "\r" or part.endswith("K"):
            lines[-1] = ""
        elif part.endswith("A") and part.startswith("\x1b"):
            del lines[-1]
        elif not part.startswith("\x1b[?"):
            lines[-1] += part
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


if __name__ == "__main__":
    main()
