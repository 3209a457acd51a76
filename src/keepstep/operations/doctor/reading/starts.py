"""Which of a shell's commands start a training, and what they give it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.reading.command_line import CommandLine, Word
from keepstep.operations.doctor.reading.shell import Command

PYTHONS = re.compile(r"(python|pypy)[\d.]*|torchrun|accelerate|deepspeed|ipython|torch\.distributed\.(run|launch)|fire")
"""Programs that run a Python file."""
TOOLS = {
    "trl": frozenset({"sft", "dpo", "grpo", "kto", "reward", "rloo"}),
    "llamafactory-cli": frozenset({"train"}),
    "lmf": frozenset({"train"}),
    "axolotl": frozenset({"train"}),
}
"""Programs that train by themselves, and the words for it that stand behind them."""
MODULES = {"axolotl.cli.train": "axolotl", "llamafactory.launcher": "llamafactory-cli", "trl.scripts.sft": "trl sft"}
_OTHERS = frozenset({
    "echo", "printf", "cp", "mv", "rm", "ls", "cat", "vim", "nano", "git", "sed", "grep", "awk", "test", "[", "[[",
    "tail", "head", "diff", "chmod", "wc", "less", "mkdir", "pip", "which", "find", "tar", "rsync", "scp", "black",
    "ruff",
})  # fmt: skip
"""Commands that may name a script, and start none."""
_NOT_TRAINING = re.compile(r"^(eval|evaluat|test|infer|generat|predict|merge|convert|export|serve|preprocess|download)")


@dataclass(frozen=True, slots=True)
class Start:
    """A training as a command starts it: the file or the program, and its arguments.

    `tool` is a program that trains by itself, with what it does: `trl sft`; empty where `program` is a Python file, or
    that of a `module`.
    """

    program: str
    line: CommandLine
    tool: str = ""
    module: bool = False

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePath(self.program).name

    @property
    def config(self) -> str:
        """The YAML file that a tool is given, empty without one."""
        texts = [word.text for word in self.line.words]
        if "--config" in texts[:-1]:
            return texts[texts.index("--config") + 1]
        named = next((text[len("--config=") :] for text in texts if text.startswith("--config=")), "")
        return named or (texts[0] if texts and texts[0].endswith((".yaml", ".yml", ".json")) else "")


def starts(commands: Iterable[Command], path: str) -> Iterator[Start]:
    """Those of the commands that start a training, in their order."""
    for command in commands:
        found = _start(command.words, Where(path, command.line))
        if found is not None:
            yield found


def _start(words: Sequence[Word], where: Where) -> Start | None:
    texts = [word.text for word in words]
    if not texts or PurePath(texts[0]).name in _OTHERS:
        return None
    launched = any(PYTHONS.fullmatch(PurePath(text).name) for text in texts)
    for number, text in enumerate(texts):
        name = PurePath(text).name
        rest = CommandLine(tuple(words[number + 1 :]), where)
        if name in TOOLS and len(texts) > number + 1:
            tool = f"{name} {texts[number + 1]}"
            line = CommandLine(tuple(words[number + 2 :]), where)
            return Start(tool, line, tool) if texts[number + 1] in TOOLS[name] else None
        if name.endswith(".py") and (launched or number == 0) and not text.startswith("-"):
            return None if _NOT_TRAINING.match(name) else Start(text, rest)
        if text == "-m" and number + 1 < len(texts) and launched:
            module = texts[number + 1]
            if PYTHONS.fullmatch(module):  # python -m torch.distributed.run train.py
                continue
            line = CommandLine(tuple(words[number + 2 :]), where)
            tool = next((tool for known, tool in MODULES.items() if module.startswith(known)), "")
            path = module.replace(".", "/") + ".py"
            return None if _NOT_TRAINING.match(module.rpartition(".")[2]) else Start(path, line, tool, module=True)
    return None
