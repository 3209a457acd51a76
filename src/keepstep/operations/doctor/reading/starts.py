"""Which of a shell's commands start a training, and what they give it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
    attached = _attached(words)

    def behind(number: int) -> CommandLine:
        return CommandLine(tuple(words[number:]), where, attached)

    for number, text in enumerate(texts):
        name = PurePath(text).name
        rest = behind(number + 1)
        if name in TOOLS and len(texts) > number + 1:
            tool = f"{name} {texts[number + 1]}"
            return Start(tool, behind(number + 2), tool) if texts[number + 1] in TOOLS[name] else None
        if name.endswith(".py") and (launched or number == 0) and not text.startswith("-"):
            return None if _NOT_TRAINING.match(name) else Start(text, rest)
        if text == "-m" and number + 1 < len(texts) and launched:
            module = texts[number + 1]
            if PYTHONS.fullmatch(module):  # python -m torch.distributed.run train.py
                continue
            line = behind(number + 2)
            tool = next((tool for known, tool in MODULES.items() if module.startswith(known)), "")
            path = module.replace(".", "/") + ".py"
            return None if _NOT_TRAINING.match(module.rpartition(".")[2]) else Start(path, line, tool, module=True)
    return None


def _attached(words: Sequence[Word]) -> dict[str, Word] | None:
    """The options of a `keepstep run --attach` before a command, by attach's names for them; None without."""
    texts = [word.text for word in words]
    begin = next((n for n, text in enumerate(texts[:-1]) if PurePath(text).name == "keepstep"), None)
    if begin is None or texts[begin + 1] != "run" or "--" not in texts[begin:]:
        return None
    end = texts.index("--", begin)
    own = words[begin + 2 : end]
    if "--attach" not in (word.text for word in own):
        return None
    found: dict[str, Word] = {}
    for word, value in zip(own, (*own[1:], Word("")), strict=True):
        name, is_, text = word.text.partition("=")
        if name.startswith("--"):
            found[name[2:].replace("-", "_")] = replace(word, text=text) if is_ else value
    return found
