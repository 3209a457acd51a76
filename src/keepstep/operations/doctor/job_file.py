"""A job file: the `#SBATCH` lines of a shell script for SLURM, or a Kubernetes manifest.

Sources: sbatch(1) (--signal, --time, --requeue), slurm.conf(5) (KillWait), the Kubernetes API (PodSpec).
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep.errors import SettingsError
from keepstep.operations.doctor.facts import DEFAULT_GRACE, Job
from keepstep.operations.doctor.reading.shell import commands
from keepstep.operations.doctor.reading.starts import Start, starts
from keepstep.operations.doctor.reading.texts import read_text
from keepstep.operations.yaml_package import yaml_for

ENDINGS = (".sh", ".bash", ".sbatch", ".slurm", ".batch", ".job")
SIGNAL_SECONDS = 60.0
"""How long before its end a SLURM job is signalled where `--signal` does not say it."""
LAUNCHERS = ("python", "python3", "torchrun", "accelerate", "deepspeed", "trl", "uv", "srun", "mpirun")
_SIGNAL = re.compile(r"(?:(?P<flags>[RB]+):)?(?P<name>[A-Za-z]\w*|\d+)(?:@(?P<seconds>\d+))?")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_UNLIMITED = {"UNLIMITED", "INFINITE", "-1"}
_SHORT = {"-t": "--time"}
_TORCHRUN = frozenset({"torch.distributed.run", "torch.distributed.launch"})
_MANIFEST = re.compile(r"^apiVersion:", re.MULTILINE), re.compile(r"^kind:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a job file says; `unread` are values that only running it would tell, `starts` the trainings that it starts.

    `queued` is false for a shell script that asks no scheduler for anything.
    """

    job: Job
    unread: tuple[str, ...]
    starts: tuple[Start, ...] = ()
    queued: bool = True


def is_manifest(path: Path) -> bool:
    """True for a YAML file that is a Kubernetes manifest. Raises SettingsError, OSError."""
    text = read_text(path)
    return all(pattern.search(text) for pattern in _MANIFEST)


def read_job_file(path: Path) -> JobFile:
    """What a shell script or a manifest says about its job. Raises SettingsError, OSError."""
    text = read_text(path)
    if path.suffix.lower() not in ENDINGS:
        return JobFile(_kubernetes(path, text), ())
    job, unread = _slurm(path, text)
    found = {
        (start.program, *(word.text for word in start.line.words)): start
        for start in starts(commands(text, str(path)), str(path))
    }
    return JobFile(job, unread, tuple(found.values()), queued="#SBATCH" in text)


def _slurm(path: Path, text: str) -> tuple[Job, tuple[str, ...]]:
    given = _options(text)
    unread: list[str] = []
    body = _commands(text)
    grace, said, line, flags = DEFAULT_GRACE, "its default between SIGTERM and SIGKILL", 0, ""
    if "--signal" in given:
        value, line = given["--signal"]
        said = f"--signal={value}"
        if found := _SIGNAL.fullmatch(value):
            flags = found["flags"] or ""
            grace = float(found["seconds"]) if found["seconds"] else SIGNAL_SECONDS
        else:
            unread.append(f"{said} (line {line})")
            grace = None
    limit, limit_line = None, 0
    if "--time" in given:
        value, limit_line = given["--time"]
        seconds = _seconds(value)
        limit = seconds or None  # a limit of zero is none
        if seconds is None and value.upper() not in _UNLIMITED:
            unread.append(f"--time={value} (line {limit_line})")
    requeue = given.get("--requeue", ("", 0))[1]
    job = Job(
        str(path),
        "SLURM",
        grace,
        said,
        line,
        limit=limit,
        limit_line=limit_line,
        restarts="--requeue" if requeue else "",
        restarts_line=requeue,
        starts=tuple(dict.fromkeys(name for command in body for name in _scripts(command))),
        unheard=_unheard(flags, body) if "--signal" in given and grace is not None else "",
        kills=_kills(given["--signal"][0], text, path) if "--signal" in given and grace is not None else "",
        known=bool(given) or any(_launches(command) for command in body),
    )
    return job, tuple(unread)


def _options(text: str) -> dict[str, tuple[str, int]]:
    """Options of `#SBATCH` lines with their lines; as sbatch does, those behind the first command are passed over."""
    found: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if not re.match(r"#SBATCH\s", line):
            continue
        try:
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        except ValueError:
            continue
        while words:
            word = words.pop(0)
            if word[:2] in _SHORT and len(word) > 2:  # -t10:00
                word = f"{word[:2]}={word[2:].removeprefix('=')}"
            name, _, value = word.partition("=")
            if not value and words and not words[0].startswith("-"):
                value = words.pop(0)
            found[_SHORT.get(name, name)] = (value, number)
    if "--no-requeue" in found and found["--no-requeue"][1] > found.get("--requeue", ("", 0))[1]:
        found.pop("--requeue", None)
    return found


def _commands(text: str) -> list[str]:
    """Commands, those of one line apart, those that go on over lines joined."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    kept = [line for line in lines if not line.lstrip().startswith("#")]
    return [part.strip() for line in kept for part in re.split(r"&&|\|\||;", line) if part.strip()]


def _launches(command: str) -> bool:
    return any(_name(word) in LAUNCHERS for word in command.split())


def _name(word: str) -> str:
    return Path(word).name


def _scripts(command: str) -> list[str]:
    return [word.strip("\"'") for word in command.split() if word.strip("\"'").endswith((".py", ".yaml", ".yml"))]


def _unheard(flags: str, body: list[str]) -> str:
    """Why the training never gets the signal, empty where it does, or nobody can know."""
    starts = [command for command in body if _launches(command)]
    if not starts or any(re.match(r"(source|\.)\s", command) for command in body):
        return ""
    if "B" in flags:
        trapped = any(re.match(r"trap\s", command) for command in body)
        replaced = any(re.match(r"exec\s", command) and _launches(command) for command in body)
        passed_on = trapped or replaced
        return "" if passed_on else "B: signals the batch shell alone, which has no trap to pass it on and no exec"
    by_srun = any("srun" in map(_name, command.split()) for command in body)
    return "" if by_srun else "it goes to what srun starts, and nothing is"


def _kills(said: str, text: str, path: Path) -> str:
    """Why the signal would end torchrun, whose workers live on; empty where it knows it, or nobody sends it there."""
    found = _SIGNAL.fullmatch(said)
    name = _signal_name(found["name"]) if found else ""
    if found is None or name in HANDED_ON:
        return ""
    all_of_them = [command.texts for command in commands(text, str(path))]
    launched = [words for words in all_of_them if _is_torchrun(words)]
    if not launched or all(name in _handled(words) or "keepstep" in map(_name, words) for words in launched):
        return ""
    if "B" in (found["flags"] or ""):
        sent = re.search(rf"kill\s+-(?:s\s+)?(?:SIG)?(?:{name.removeprefix('SIG')}|{found['name']})\b", text)
        reaches = bool(sent) or any(re.match(r"exec\s", one) and _launches(one) for one in _commands(text))
    else:
        reaches = any("srun" in map(_name, words) for words in all_of_them)
    return (
        f"torchrun does not know {name}, and ends of it at once; its workers live on, and nobody tells them" * reaches
    )


HANDED_ON = frozenset({"SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"})
"""What torchrun hands on to its workers, where `--signals-to-handle` says nothing."""


def _signal_name(word: str) -> str:
    if word.isdecimal():
        return signal.Signals(int(word)).name if int(word) in set(signal.Signals) else ""
    return f"SIG{word.upper().removeprefix('SIG')}"


def _is_torchrun(words: Sequence[str]) -> bool:
    return any(_name(word) == "torchrun" or word in _TORCHRUN for word in words)


def _handled(words: Sequence[str]) -> frozenset[str]:
    """The signals that such a command hands on."""
    for word, behind in zip(words, (*words[1:], ""), strict=True):
        option, _, value = word.partition("=")
        if option.replace("_", "-") == "--signals-to-handle":
            return frozenset(_signal_name(one.strip()) for one in (value or behind).split(","))
    return HANDED_ON


def _seconds(value: str) -> float | None:
    """Seconds of a time limit: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    found = _TIME.fullmatch(value)
    if found is None:
        return None
    days, *rest = found.groups()
    first, second, third = (int(part) if part else 0 for part in rest)
    if days is not None:
        return ((int(days) * 24 + first) * 60 + second) * 60.0 + third
    if found[4] is not None:
        return (first * 60 + second) * 60.0 + third
    return first * 60.0 + second


def _kubernetes(path: Path, text: str) -> Job:
    yaml = yaml_for(path)
    try:
        pods = [pod for node in yaml.compose_all(text, Loader=yaml.SafeLoader) for pod in _pods(node)]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        raise SettingsError(
            f"{path}{f':{mark.line + 1}' if mark else ''}: it is no YAML", hint="Check it with a YAML linter."
        ) from None
    if not pods:
        raise SettingsError(f"{path} is a manifest without a pod", hint="Give the one whose pod trains.")
    graces = [_grace(pod) for pod in pods]
    grace, line = min(graces, key=lambda found: found[0])
    said = f"terminationGracePeriodSeconds: {grace:g}" if line else "its default"
    return Job(str(path), "Kubernetes", grace, said, line)


def _pods(node: Any) -> Iterator[dict[str, tuple[Any, int]]]:
    """Every mapping that has containers: a pod's specification. An alias is followed once."""
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one is None or isinstance(one.value, str) or id(one) in seen:
            continue
        seen.add(id(one))
        if one.id == "sequence":
            waiting += reversed(one.value)
            continue
        found = {key.value: (value, key.start_mark.line + 1) for key, value in one.value if isinstance(key.value, str)}
        if "containers" in found:
            yield found
        waiting += reversed([value for value, _ in found.values()])


def _grace(pod: dict[str, tuple[Any, int]]) -> tuple[float, int]:
    value, line = pod.get("terminationGracePeriodSeconds", (None, 0))
    try:
        return (DEFAULT_GRACE, 0) if value is None else (float(value.value), line)
    except (TypeError, ValueError):
        return DEFAULT_GRACE, 0
