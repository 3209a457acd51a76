"""Shell scripts and notebooks: what they start, with what, and what the doctor says of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import sampled_from, text

from keepstep.errors import SettingsError
from keepstep.operations.doctor import Report, examine_together
from keepstep.operations.doctor.reading.command_line import UNKNOWN
from keepstep.operations.doctor.reading.shell import commands
from keepstep.operations.doctor.reading.starts import starts

PARSER = """\
from transformers import HfArgumentParser, Trainer, TrainingArguments
(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
Trainer(args=args).train()
"""
WRONG = "--output_dir out --save_steps 500 --eval_strategy steps --eval_steps 300 --load_best_model_at_end True"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def _words(script: str) -> list[list[str]]:
    return [list(command.texts) for command in commands(script, "x.sh")]


def _reports(script: str, *others: str, name: str = "run.sh", arguments: list[str] | None = None) -> tuple[Report, ...]:
    Path(name).write_text(script)
    return examine_together([Path(one) for one in (name, *others)], arguments=arguments)


def _ids(report: Report) -> set[str]:
    return {finding.id for finding in report.findings}


def _settings(report: Report) -> dict[str, Any]:
    return {used.name: used.value for used in report.settings}


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        "A=1\np $A ${A} \"$A\" '$A' \\$A x${A}y",
        "A='a  b'\np $A \"$A\"",
        'A=(1 \'2 3\' 4)\np ${A[@]} "${A[@]}"\nA+=(5)\np "${A[@]}"',
        "A='--x 1'\nA+=' --y'\np $A",
        "p a \\\n  b # c\n# p d\np 'e #f' g#h",
        "p ${A:-5} ${A-6} ${B:=7}",
        "A=3\np $((A * 2)) $(( $A + 4 / 2 )) $((7 % 4))",
        'f() { p $1 "$2" "$@"; }\nf a \'b c\' | cat',
        'f() {\n  local x="$1"\n  shift\n  p "$x" "$@"\n}\nf a b c\nf d',
        'function f {\n  p "${@:2}"\n}\nf a b c',
        "p a >/dev/null 2>&1; p b <<EOF\np no\nEOF\np c && p d",
        "A=5 B=6; export C=$A\np $A $B $C",
        "bash -c 'p 1; p 2'\nX='p 3'\n$X\neval \"$X 4\"",
        "(p a)\n{ p b; }\n! p c\ntime p d",
        'p "a\nb" \'c\\d\' "e\\"f"',
        'A=\np x$A y "$A"',
    ],
)
def test_plain_scripts_give_the_words_that_bash_gives(script: str) -> None:
    """Against the real one, with `p` a function that prints its arguments."""
    printing = "p() { printf '[' >&3; printf '<%s>' \"$@\" >&3; printf ']' >&3; }"
    real = f"exec 3>&1\n{printing}\nexport -f p\n{script}\n"
    out = subprocess.run(["bash", "-c", real], capture_output=True, text=True, check=False).stdout
    calls = [words[1:] or [""] for words in _words(script) if words[0] == "p"]
    assert "".join("[" + "".join(f"<{word}>" for word in words) + "]" for words in calls) == out


@pytest.mark.parametrize(
    "script",
    ["p $A", "p $1", "p $(date)", "p `date`", "for a in 1 2; do p $a; done", "read A\np $A", "if x; then A=1; fi\np $A",
     "p ${A%/}", "A=(1 2)\np ${A[1]}", "p $((A ** 9))"],
)  # fmt: skip
def test_what_only_running_it_would_tell_is_not_known(script: str) -> None:
    assert any(UNKNOWN in word for words in _words(script) for word in words if words[0] == "p")


def test_what_is_set_in_a_branch_is_known_in_it() -> None:
    assert ["p", "1"] in _words("if x; then\n  A=1\n  p $A\nfi")


@given(text(alphabet=sampled_from("ab$(){}[]'\"`\\\n;|&<>#=+*@:-0 "), max_size=60))
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_breaks_the_reader(script: str) -> None:
    list(starts(commands(script, "x.sh"), "x.sh"))


def test_functions_and_texts_that_call_themselves_end() -> None:
    assert _words("f() { f; f; p 1; }\nf")
    calls = [f"{name}() {{ {inner}; {inner}; }}" for inner, name in zip("abcdefgh", "bcdefghi", strict=True)]
    assert len(_words("\n".join(["a() { p; p; }", *calls, "i"]))) < 5000
    doubled = "A=x\n" + "A=$A$A\n" * 60 + "p $A"
    assert max(len(word) for words in _words(doubled) for word in words) <= 20_000


# -- what is started -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "program", "first"),
    [
        ("python train.py --a 1", "train.py", "--a"),
        ("python3.11 -u src/train.py --a", "src/train.py", "--a"),
        ("CUDA_VISIBLE_DEVICES=0 torchrun --nproc_per_node 4 train.py --a", "train.py", "--a"),
        ("accelerate launch --config_file c.yaml --num_processes 2 train.py --a", "train.py", "--a"),
        ("deepspeed --include localhost:0 train.py --a", "train.py", "--a"),
        ("srun --ntasks=1 python -m torch.distributed.run --nnodes 2 train.py --a", "train.py", "--a"),
        ("python -m mine.train --a", "mine/train.py", "--a"),
        ("uv run python train.py --a", "train.py", "--a"),
        ("nohup ./train.py --a &", "./train.py", "--a"),
        ("trl sft --config c.yaml", "trl sft", "--config"),
        ("FORCE_TORCHRUN=1 llamafactory-cli train c.yaml", "llamafactory-cli train", "c.yaml"),
        ("accelerate launch -m axolotl.cli.train c.yaml", "axolotl/cli/train.py", "c.yaml"),
        ('srun bash -c "python train.py --a"', "train.py", "--a"),
        ("singularity exec img.sif python train.py --a", "train.py", "--a"),
    ],
)
def test_a_training_is_found_in_a_command(command: str, program: str, first: str) -> None:
    found = list(starts(commands(command, "x.sh"), "x.sh"))
    assert (found[-1].program, found[-1].line.words[0].text) == (program, first)


@pytest.mark.parametrize(
    "command",
    [
        "echo python train.py", "cp train.py x.py", "python -c 'x'", "pip install trl", "trl vllm-serve --model m",
        "python", "python evaluate.py --a", "llamafactory-cli export c.yaml", "git add train.py", "# python train.py",
        "pytest test_a.py",
    ],
)  # fmt: skip
def test_a_command_that_starts_no_training(command: str) -> None:
    assert list(starts(commands(command, "x.sh"), "x.sh")) == []


# -- what is said of it ----------------------------------------------------------------------------------------------


def test_a_shell_script_alone_is_not_judged_in_silence() -> None:
    (alone,) = _reports(f"torchrun train.py \\\n  {WRONG}")
    (finding,) = [finding for finding in alone.findings if finding.id == "E103"]
    assert "save_steps=500, no multiple of eval_steps=300" in finding.what
    assert (str(finding.where), finding.unless) == ("run.sh:2", "the program that is started")
    assert (alone.kind, alone.ok) == ("command", False)
    assert "train.py, which is not here: give its file too" in alone.unread


def test_a_shell_script_with_the_script_that_it_names() -> None:
    Path("train.py").write_text(PARSER)
    for others in ((), ("train.py",)):
        (report,) = _reports(f"python train.py {WRONG}", *others)
        assert (report.target, report.command) == ("train.py:2", "run.sh:1")
        assert {"E103", "W201"} <= _ids(report)
        assert {finding.unless for finding in report.findings} == {""}
        assert not report.unread


def test_the_script_is_found_from_where_the_shell_script_may_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("src").mkdir()
    Path("scripts").mkdir()
    Path("src/train.py").write_text(PARSER)
    (report,) = _reports(f"python src/train.py {WRONG}", name="scripts/run.sh")
    assert report.target == "src/train.py:2"
    monkeypatch.chdir("scripts")
    (report,) = _reports(f"python src/train.py {WRONG}")
    assert report.target == "../src/train.py:2"


def test_each_start_is_a_report_and_the_same_one_is_one() -> None:
    Path("train.py").write_text(PARSER)
    one, two = _reports("python train.py --save_steps 5\npython train.py --save_steps 6\n", "train.py")
    assert (_settings(one)["save_steps"], _settings(two)["save_steps"]) == (5, 6)
    assert len(_reports("python train.py --save_steps 5\n" * 2, "train.py")) == 1
    assert len(_reports("python train.py --save_steps 5\n" * 2)) == 1


def test_what_is_typed_wins_over_the_shell_script() -> None:
    Path("train.py").write_text(PARSER)
    (report,) = _reports(f"python train.py {WRONG}", arguments=["--save_steps", "600"])
    assert "E103" not in _ids(report)


def test_a_value_of_the_shell_that_is_not_known() -> None:
    Path("train.py").write_text(PARSER)
    (report,) = _reports("python train.py --output_dir $1/$(date) --save_steps $N --eval_steps $M")
    assert report.unread == ("eval_steps, output_dir, save_steps, from the shell's variables",)


def test_a_default_of_the_shell_may_be_another_in_the_environment() -> None:
    Path("train.py").write_text(PARSER)
    (report,) = _reports("python train.py --output_dir o --save_total_limit ${KEEP:-1}")
    (finding,) = [finding for finding in report.findings if finding.id == "W204"]
    assert finding.sentence.endswith("unless the environment says otherwise")


def test_a_tool_with_its_file_and_without() -> None:
    Path("sft.yaml").write_text("output_dir: o\nsave_total_limit: 1\nsave_steps: 500\n")
    (report,) = _reports("trl sft --config sft.yaml --save_steps 7")
    assert (report.target, report.kind) == ("sft.yaml", "yaml")
    assert _settings(report) == {"output_dir": "o", "save_steps": 7, "save_total_limit": 1}
    (report,) = _reports("trl sft --output_dir o --save_total_limit 1")
    assert "W204" in _ids(report)
    assert not report.unread


def test_a_script_that_hands_its_command_line_on() -> None:
    Path("train_mem.py").write_text("from mine.transformers_train import train\ntrain()\n")
    (report,) = _reports(f"torchrun train_mem.py {WRONG}")
    assert "E103" in _ids(report)
    assert "train_mem.py, which makes no training arguments itself" in report.unread


def test_preparing_data_is_no_training() -> None:
    Path("prepare.py").write_text("import json\n")
    Path("train.py").write_text(PARSER)
    (report,) = _reports(f"python prepare.py --output_dir x\npython train.py {WRONG}")
    assert report.target == "train.py:2"
    with pytest.raises(SettingsError, match="starts no training"):
        _reports("python prepare.py")


def test_a_job_file_is_told_and_so_is_its_training() -> None:
    Path("train.py").write_text(PARSER)
    job, training = _reports(f"#!/bin/bash\n#SBATCH --requeue\nsrun python train.py {WRONG}", name="job.sbatch")
    assert (job.kind, training.kind) == ("job", "script")
    assert {"E103", "E505"} <= _ids(training)


def test_a_job_file_whose_training_is_not_here_says_so() -> None:
    (job,) = _reports("#SBATCH --time=60\nsrun python train.py", name="job.sbatch")
    assert "train.py, which is not here: give its file too" in job.unread


# -- notebooks -------------------------------------------------------------------------------------------------------


def _notebook(*cells: str, name: str = "n.ipynb") -> Path:
    found = [{"cell_type": "markdown", "metadata": {}, "source": ["# Train\n"]}]
    for source in cells:
        lines = source.splitlines(keepends=True)
        found.append({"cell_type": "code", "metadata": {}, "source": lines, "outputs": []})  # type: ignore[dict-item]
    Path(name).write_text(json.dumps({"cells": found, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return Path(name)


def test_a_notebook_is_read_by_its_cells() -> None:
    path = _notebook(
        "%pip install trl\n!ls \\\n  -l\nfiles = !ls\nN = 1\nget?\n", "%%capture\nM = 2", "%%html\n<b>",
        "from trl import SFTConfig\nargs = SFTConfig(\n  'o',\n  save_total_limit=N,\n  seed=await x())",
    )  # fmt: skip
    (report,) = examine_together([path])
    assert report.target == "n.ipynb[4]:2"
    (finding,) = [finding for finding in report.findings if finding.id == "W204"]
    assert (str(finding.where), finding.to_json()["line"], finding.to_json()["cell"]) == ("n.ipynb[4]:4", 4, 4)
    assert report.unread == ("seed=await x() (line 16)",)


def test_a_cell_that_is_no_python_is_said_and_passed_over() -> None:
    (report,) = examine_together([_notebook("x = (", "SFTConfig('o', save_total_limit=1)  # keepstep: ignore W204")])
    assert "cell 1, which is no Python" in report.unread
    assert report.ignored == ("W204",)


def test_what_a_notebook_starts() -> None:
    Path("train.py").write_text(PARSER)
    (report,) = examine_together([_notebook("import os", f"N = 1\n!python train.py \\\n  {WRONG}")])
    assert (report.target, "E103" in _ids(report)) == ("train.py:2", True)
    (report,) = examine_together([_notebook(f"%%bash\ncd x\npython train.py {WRONG}")])
    assert report.target == "train.py:2"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": 5}', '{"cells": [{"cell_type": "code"}]}', "[" * 9999])
def test_what_is_no_notebook_is_said(content: str) -> None:
    Path("n.ipynb").write_text(content)
    with pytest.raises(SettingsError, match=r"n\.ipynb is no notebook"):
        examine_together([Path("n.ipynb")])
