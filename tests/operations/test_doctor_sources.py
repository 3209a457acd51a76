"""Where the values come from that the doctor judges: the text, a default, the command line, a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keepstep.operations.doctor import Report, examine_together
from keepstep.operations.doctor.reading.command_line import CommandLine
from keepstep.operations.doctor.script import read_script
from keepstep.operations.doctor.settings import Given, Unread

ARGPARSE = """\
import argparse
from transformers import TrainingArguments
p = argparse.ArgumentParser()
p.add_argument("--save_steps", type=int, default=500)
p.add_argument("--eval-steps", "-e", type=int, default=250, dest="evals")
p.add_argument("--limit", type=int)
p.add_argument("--out", required=True)
p.add_argument("--best", action="store_true")
p.add_argument("--tags", nargs="+", default=[])
args = p.parse_args()
TrainingArguments(args.out, eval_strategy="steps", save_steps=args.save_steps, eval_steps=args.evals,
    save_total_limit=args.limit, load_best_model_at_end=args.best)
"""
DATACLASS = """\
from dataclasses import dataclass, field
from typing import Optional
import transformers
from {module} import {parser}
@dataclass
class Mine:
    data: str = "d"
    max_rows: Optional[int] = None
@dataclass
class TrainingArguments(transformers.TrainingArguments):
    save_steps: int = field(default=250)
    save_total_limit: Optional[int] = 3
    load_best_model_at_end: bool = True
parser = {parser}((Mine, TrainingArguments))
mine, targs = parser.{call}()
targs.report_to = "none"
trainer = transformers.Trainer(args=targs)
trainer.train()
"""
TYRO = """\
import tyro
from dataclasses import dataclass, field
from trl import SFTConfig
@dataclass
class Saving:
    every: int = 500
    best: bool = False
@dataclass
class Args:
    out: str
    saving: Saving = field(default_factory=Saving)
args = tyro.cli(Args)
SFTConfig(args.out, save_steps=args.saving.every, load_best_model_at_end=args.saving.best)
"""
FIRE = """\
import fire
from trl import SFTConfig
def train(out="o", every=500, best: bool = False):
    SFTConfig(out, save_steps=every, load_best_model_at_end=best, save_total_limit=2 if best else 3)
fire.Fire(train)
"""
CLICK = """\
import click
from trl import SFTConfig
@click.command()
@click.option("-o", "--out", required=True)
@click.option("--save-every", "every", default=500)
@click.option("--best/--no-best", default=False)
def main(out, every, best):
    SFTConfig(out, save_steps=every, load_best_model_at_end=best)
main()
"""
TYPER = """\
import typer
from typing import Annotated
from trl import SFTConfig
app = typer.Typer()
@app.command()
def main(out: str, every: int = typer.Option(500, help="steps"), best: Annotated[bool, typer.Option()] = False):
    SFTConfig(out, save_steps=every, load_best_model_at_end=best)
app()
"""
HYDRA = """\
import hydra
from transformers import TrainingArguments
@hydra.main(config_path="conf", config_name="main", version_base=None)
def main(cfg):
    TrainingArguments(cfg.train.out, save_steps=cfg.train.every, load_best_model_at_end=cfg.train.best)
main()
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf").mkdir()
    Path("conf/main.yaml").write_text("train:\n  out: o\n  every: 500\n  best: false\n")


def _given(text: str, *words: str, line: bool = True) -> dict[str, Any]:
    """The settings of a script's only config, as value and source; None for what is not known."""
    Path("train.py").write_text(text)
    (facts,) = read_script(Path("train.py"), CommandLine.typed(words) if line else None).facts
    values = facts.settings.values.items()
    return {name: (v.value, v.source.value, v.unless) if isinstance(v, Given) else None for name, v in values}


def _report(*targets: str, arguments: list[str] | None = None) -> Report:
    (only,) = examine_together([Path(target) for target in targets], arguments=arguments)
    return only


PARSERS = {
    "argparse": (ARGPARSE, ["--out", "o"], ["--out", "o", "--save_steps", "100", "--best"]),
    "tyro": (TYRO, ["--out", "o"], ["--out", "o", "--saving.every", "100", "--saving.best"]),
    "fire": (FIRE, [], ["--every=100", "--best"]),
    "click": (CLICK, ["-o", "o"], ["-o", "o", "--save-every", "100", "--best"]),
    "typer": (TYPER, ["o"], ["o", "--every", "100", "--best"]),
    "hydra": (HYDRA, [], ["train.every=100", "train.best=true"]),
}


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_default_is_one_until_the_command_line_is_known(name: str) -> None:
    text, needed, changed = PARSERS[name]
    source = "file" if name == "hydra" else "default"

    assert _given(text, line=False)["save_steps"] == (500, source, "the command line")
    assert _given(text, *needed)["save_steps"] == (500, source, "")
    told = _given(text, *changed)
    assert told["save_steps"] == (100, "command line", "")
    assert told["load_best_model_at_end"] == (True, "command line", "")


def test_the_options_of_argparse() -> None:
    told = _given(ARGPARSE, "--out=o", "-e", "50", "--lim", "3", "--tags", "a", "b")
    assert told["output_dir"] == ("o", "command line", "")
    assert told["eval_steps"][0] == 50
    assert told["save_total_limit"][0] == 3, "a beginning is enough"
    assert told["load_best_model_at_end"] == (False, "default", "")
    alone = _given(ARGPARSE, line=False)
    assert alone["output_dir"] is None, "a required option has no default"
    assert alone["save_total_limit"] == (None, "default", "the command line")


def test_an_option_that_a_script_does_not_have_is_named() -> None:
    Path("train.py").write_text(ARGPARSE)
    assert "--save_step, which is no option of this" not in _report("train.py", arguments=["--save_step", "5"]).unread
    assert "--eval_steps, which is no option of this" in _report("train.py", arguments=["--eval_steps", "5"]).unread


@pytest.mark.parametrize(
    ("module", "parser", "call"),
    [
        ("transformers", "HfArgumentParser", "parse_args_into_dataclasses"),
        ("trl", "TrlParser", "parse_args_and_config"),
    ],
)
def test_parsers_of_dataclasses(module: str, parser: str, call: str) -> None:
    text = DATACLASS.format(module=module, parser=parser, call=call)

    alone = _given(text, line=False)
    assert alone["save_steps"] == (250, "default", "the command line")
    assert "eval_strategy" not in alone
    told = _given(
        text, "--save-steps", "1e2", "--no_load_best_model_at_end", "--eval_strategy", "steps", "--save_total_limit=2"
    )
    assert told["save_steps"] == (100, "command line", "")
    assert told["load_best_model_at_end"] == (False, "command line", "")
    assert (told["eval_strategy"][0], told["save_total_limit"][0]) == ("steps", 2)
    assert told["report_to"] == ("none", "literal", "")


def test_trls_config_is_below_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("save_steps: 10\neval_steps: 20\neval_strategy: steps\ndata: x\n")
    text = DATACLASS.format(module="trl", parser="TrlParser", call="parse_args_and_config")
    told = _given(text, "--config", "sft.yaml", "--eval_steps", "30")
    assert (told["save_steps"], told["eval_steps"]) == ((10, "file", ""), (30, "command line", ""))


def test_without_a_command_line_the_rest_is_not_known_and_said_once() -> None:
    Path("train.py").write_text(DATACLASS.format(
        module="transformers", parser="HfArgumentParser", call="parse_args_into_dataclasses"
    ))  # fmt: skip
    found = _report("train.py")
    assert len(found.unread) == 1
    assert [gap.missing for gap in found.gaps].count(found.unread[0]) == 1
    assert not found.findings


def test_what_waits_for_the_same_is_one_line() -> None:
    names = ("output_dir", "save_steps", "eval_steps", "save_total_limit", "seed", "max_steps")
    arguments = ", ".join(f"{name}=cfg.{name}" for name in names)
    Path("train.py").write_text(f"TrainingArguments({arguments}, warmup_steps=cfg.warm)\n")
    (line,) = _report("train.py").unread
    assert line == "eval_steps, max_steps, output_dir, save_steps, save_total_limit, seed, from cfg"


@pytest.mark.parametrize(
    ("load", "name"),
    [
        ("yaml.safe_load(open('c.yaml'))", "c.yaml"),
        ("yaml.load(open(Path('c.yaml')), Loader=yaml.FullLoader)", "c.yaml"),
        ("OmegaConf.load('c.yaml')", "c.yaml"),
        ("json.load(open('c.json'))", "c.json"),
        ("json.loads(Path('c.json').read_text())", "c.json"),
    ],
)
def test_a_file_that_a_script_opens(load: str, name: str) -> None:
    Path("c.yaml").write_text("train:\n  save_steps: 7\n  eval_strategy: no\n")
    Path("c.json").write_text('{"train": {\n"save_steps": 7, "eval_strategy": "no"}}')
    Path("train.py").write_text(f"c = {load}\nTrainingArguments(**c['train'])")
    (facts,) = read_script(Path("train.py")).facts
    given = facts.settings.values["save_steps"]
    assert isinstance(given, Given)
    assert (given.value, given.source, str(given.where)) == (7, "file", f"{name}:2")
    assert facts.settings.word("eval_strategy") == "no"


def test_a_file_that_is_opened_with_with_and_handed_on() -> None:
    Path("c.yaml").write_text("save_steps: 7\nseed: 3\n")
    text = (
        "def read(path):\n    with open(path) as f:\n        return yaml.safe_load(f)\n"
        "def main(cfg):\n    cfg['seed'] = 4\n    TrainingArguments(**cfg)\nmain(read('c.yaml'))"
    )
    assert _given(text) == {"save_steps": (7, "file", ""), "seed": (4, "literal", "")}


@pytest.mark.parametrize("name", ["gone.yaml", "/dev/zero", "train.py", "\\0.yaml"])
def test_a_file_that_is_not_there_or_no_config_is_not_opened(name: str) -> None:
    Path("train.py").write_text(f"TrainingArguments(**yaml.safe_load(open('{name}')))")
    (facts,) = read_script(Path("train.py")).facts
    assert not facts.settings.complete


def test_what_a_condition_decides_rests_on_what_it_looks_at() -> None:
    assert _given(FIRE, line=False)["save_total_limit"] == (3, "default", "the command line")
    assert _given(FIRE, "--best")["save_total_limit"] == (2, "command line", "")


def test_a_finding_that_rests_on_a_default_says_so_in_text_and_json() -> None:
    Path("train.py").write_text(ARGPARSE + "\n")
    (finding,) = [f for f in _report("train.py").findings if f.id == "W201"]
    assert finding.unless == "the command line"
    assert finding.sentence.endswith("every checkpoint stays, unless the command line says otherwise")
    told = finding.to_json()
    assert told["what"] == finding.sentence
    assert told["unless"] == "the command line"
    values = {value["name"]: value for value in told["values"]}
    assert values["save_total_limit"]["source"] == "default"
    assert str(finding.where) == "train.py:6"
    known = [f for f in _report("train.py", arguments=["--out", "o"]).findings if f.id == "W201"]
    assert known[0].unless == ""


def test_a_start_that_may_resume_is_not_said_to_begin_anew() -> None:
    Path("o/checkpoint-5").mkdir(parents=True)
    text = (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--resume', default=None)\na = p.parse_args()\n"
        "args = TrainingArguments('o')\ntrainer = Trainer(args=args)\n"
        "trainer.train(resume_from_checkpoint=a.resume)\n"
    )
    Path("train.py").write_text(text)
    assert "E311" not in {finding.id for finding in _report("train.py").findings}
    assert "E311" in {finding.id for finding in _report("train.py", arguments=["--resume", ""]).findings}


def test_a_comment_silences_where_the_value_stands_and_where_it_is_used() -> None:
    for comment in ("p.add_argument('--n', type=int, default=1)  # keepstep: ignore W204", "# none"):
        used = "" if "ignore" in comment else "  # keepstep: ignore W204"
        add = comment if "ignore" in comment else "p.add_argument('--n', type=int, default=1)"
        Path("train.py").write_text(
            f"import argparse\np = argparse.ArgumentParser()\n{add}\na = p.parse_args()\n"
            f"TrainingArguments('o', save_total_limit=a.n){used}\n"
        )
        assert "W204" in _report("train.py").ignored, comment


def test_a_comment_in_the_file_that_is_opened_silences() -> None:
    Path("c.yaml").write_text("output_dir: o\nsave_total_limit: 1  # keepstep: ignore W204\n")
    Path("train.py").write_text("TrainingArguments(**yaml.safe_load(open('c.yaml')))")
    assert "W204" in _report("train.py").ignored


def test_secrets_of_a_command_line_are_not_shown() -> None:
    token = "hf_" + "b" * 30
    Path("train.py").write_text("TrainingArguments('o', hub_token=input())\n")
    shown = json.dumps(_report("train.py").to_json())
    Path("train.py").write_text(DATACLASS.format(
        module="transformers", parser="HfArgumentParser", call="parse_args_into_dataclasses"
    ))  # fmt: skip
    report = _report("train.py", arguments=["--hub_token", token, "--run_name", token, "--output_dir", f"o/{token}"])
    shown += json.dumps(report.to_json())
    assert "E406" in shown
    assert token not in shown


def test_unread_values_have_no_source() -> None:
    Path("train.py").write_text(ARGPARSE)
    (facts,) = read_script(Path("train.py")).facts
    assert isinstance(facts.settings.values["output_dir"], Unread)


def test_an_exponential_program_ends() -> None:
    lines = ["a0 = 1", *(f"a{n} = a{n - 1} + a{n - 1}" for n in range(1, 25)), "TrainingArguments(save_steps=a24)"]
    assert _given("\n".join(lines), line=False)["save_steps"] == (2**24, "literal", "")
    wide = "def f(n):\n    return f(n) + f(n)\nTrainingArguments(save_steps=f(3))"
    assert _given(wide, line=False)["save_steps"] is None
    calls = "\n".join(f"def g{n}(x):\n    return g{n + 1}(x) + g{n + 1}(x)" for n in range(30))
    assert _given(f"{calls}\ndef g30(x):\n    return x\nTrainingArguments(save_steps=g0(1))")["save_steps"] is None


# -- files with sections ---------------------------------------------------------------------------------------------


def test_a_file_with_sections_is_not_one_that_sets_nothing() -> None:
    Path("c.yaml").write_text(
        "model: m\ntraining:\n  output_dir: out\n  save_steps: 500\n  eval_strategy: steps\n  eval_steps: 300\n"
        "  load_best_model_at_end: true\n  save_total_limit: 1\n"
    )
    report = _report("c.yaml")
    assert [(finding.id, str(finding.where)) for finding in report.findings] == [
        ("E103", "c.yaml:4"), ("W203", "c.yaml:8"),
    ]  # fmt: skip
    assert {finding.unless for finding in report.findings} == {"the program that reads it"}


@pytest.mark.parametrize(
    "text",
    [
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: 8\n",
        "optimizer:\n  lr: 1\nmodel:\n  name: m\n",
        "zero_optimization:\n  stage: 3\n",
    ],
)
def test_a_file_that_is_none_of_a_training_is_said(text: str) -> None:
    Path("c.yaml").write_text(text)
    report = _report("c.yaml")
    assert report.findings == ()
    assert report.unread == ("the training arguments: nothing in this file is one",)


def test_two_sections_are_two_reports() -> None:
    Path("c.yaml").write_text(
        "sft:\n  output_dir: a\n  save_steps: 5\nrl:\n  grpo:\n    output_dir: b\n    save_strategy: no\n"
    )
    reports = examine_together([Path("c.yaml")])
    assert [report.target for report in reports] == ["c.yaml:1", "c.yaml:5"]
    assert "W302" in {finding.id for finding in reports[1].findings}


def test_a_yaml_file_with_a_command_line() -> None:
    Path("c.yaml").write_text("output_dir: a\nsave_total_limit: 1\nsave_steps: 5\n")
    told = {used.name: used for used in _report("c.yaml", arguments=["--save_total_limit", "2"]).settings}
    assert (told["save_total_limit"].value, told["save_total_limit"].source) == (2, "command line")
    assert (told["save_steps"].source, told["save_steps"].where) == ("file", "c.yaml:3")


def test_aliases_and_merges_in_yaml() -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    Path("c.yaml").write_text(
        f"l0: &l0 [a]\n{levels}base: &base\n  save_steps: 5\n  output_dir: o\ntraining:\n  <<: *base\n  save_steps: 7\n"
    )
    sections = {
        report.target: {u.name: u.value for u in report.settings} for report in examine_together([Path("c.yaml")])
    }
    assert sections["c.yaml:16"] == {"save_steps": 7, "output_dir": "o"}
