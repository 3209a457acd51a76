"""Reading scripts and YAML files: what is known, what is not, and that it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import DataObject, booleans, data, lists, sampled_from

from keepstep.errors import KeepstepError, SettingsError
from keepstep.operations.doctor import Report, examine
from keepstep.operations.doctor.script import read_script
from keepstep.operations.doctor.settings import DEFAULTS, Given, NotKnown
from tests.operations.doctoring import found, report


def _settings(path: Path, text: str) -> dict[str, object]:
    path.write_text(text)
    (facts,) = read_script(path).facts
    return {name: v.value if isinstance(v, Given) else v for name, v in facts.settings.values.items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("TrainingArguments(save_steps=500)", 500),
        ("TrainingArguments(save_steps=5 * 100)", 500),
        ("N = 500\nTrainingArguments(save_steps=N)", 500),
        ("N = 500\nM = N // 2\nTrainingArguments(save_steps=M * 2)", 500),
        ("def f():\n    n = 500\n    return TrainingArguments(save_steps=n)", 500),
        ("kw = dict(save_steps=500)\nTrainingArguments(**kw)", 500),
        ("kw = {'save_steps': 500}\nTrainingArguments(**{**kw, 'seed': 1})", 500),
        ("a = TrainingArguments()\na.save_steps = 500", 500),
        ("import transformers as t\nt.TrainingArguments(save_steps=500)", 500),
        ("from trl import SFTConfig as C\nC(save_steps=500)", 500),
        ("Seq2SeqTrainingArguments(save_steps=500)", 500),
        ("class Mine(TrainingArguments):\n    pass\nMine(save_steps=500)", 500),
        ("if __name__ == '__main__':\n    n = 500\n    TrainingArguments(save_steps=n)", 500),
        ("kw = dict(save_steps=1)\nkw['save_steps'] = 500\nTrainingArguments(**kw)", 500),
        ("kw = {}\nkw.update(save_steps=500)\nTrainingArguments(**kw)", 500),
        ("kw = dict(save_steps=500)\nkw.setdefault('save_steps', 2)\nTrainingArguments(**kw)", 500),
        ("kw = dict(save_steps=500)\nTrainingArguments(**kw)\nkw['save_steps'] = 2", 500),
        ("kw = dict(save_steps=500)\nif False: kw['save_steps'] = 2\nTrainingArguments(**kw)", 500),
        ("def f(n, m=5):\n    TrainingArguments(save_steps=n * m)\nf(100)", 500),
        ("def f(*, n):\n    return TrainingArguments(save_steps=n)\ndef g():\n    f(n=500)", 500),
        ("def n(k): return 5 * k\nTrainingArguments(save_steps=n(100))", 500),
        ("if big:\n    n = 500\n    TrainingArguments(save_steps=n)", 500),
        ("quick = False\nif quick: n = 5\nelse: n = 500\nTrainingArguments(save_steps=n)", 500),
        ("quick = False\nTrainingArguments(save_steps=5 if quick else 500)", 500),
        ("class C:\n    n = 5\nn = 500\nTrainingArguments(save_steps=n)", 500),
        ("n = 500\nx = [n for n in range(3)]\nTrainingArguments(save_steps=n)", 500),
        ("a, n = 1, 500\nTrainingArguments(save_steps=n)", 500),
        ("c = {'train': {'n': 500}}\nTrainingArguments(save_steps=c['train']['n'])", 500),
        ("c = {'n': 500}\nTrainingArguments(save_steps=c.get('n', 3), eval_steps=c.get('m', 3))", 500),
        ("a = TrainingArguments()\nif True: a.save_steps = 500", 500),
        ("class Mine(TrainingArguments):\n    save_steps: int = 500\nMine()", 500),
        ("class CFG:\n    n = 500\nTrainingArguments(save_steps=CFG.n)", 500),
        ("class CFG:\n    n = 5\nCFG.n = 500\nTrainingArguments(save_steps=CFG.n)", 500),
        ("ns = SimpleNamespace(n=500)\nTrainingArguments(save_steps=ns.n)", 500),
        ("kw = {'save_steps': 5} | {'save_steps': 500}\nTrainingArguments(**kw)", 500),
        ("TrainingArguments(save_steps=max(100, min(500, 900)))", 500),
        ("p = Path('a') / 'b'\nTrainingArguments(str(p), save_steps=500 if p.name == 'b' else 1)", 500),
        ("p = HfArgumentParser(TrainingArguments)\na = p.parse_args_into_dataclasses()[0]\na.save_steps = 500", 500),
    ],
)
def test_values_that_can_be_known(tmp_path: Path, text: str, value: object) -> None:
    assert _settings(tmp_path / "s.py", text)["save_steps"] == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('TrainingArguments("runs/a")', "runs/a"),
        ('TrainingArguments(output_dir=f"runs/{1 + 1}")', "runs/2"),
        ('R = "runs"\nTrainingArguments(str(Path(R) / "a"))', "runs/a"),
        ('import os\nTrainingArguments(os.path.join("runs", "a"))', "runs/a"),
        ("TrainingArguments('runs' + '/a')", "runs/a"),
    ],
)
def test_paths_that_can_be_known(tmp_path: Path, text: str, value: object) -> None:
    assert _settings(tmp_path / "s.py", text)["output_dir"] == value


def test_enumerations_are_their_words(tmp_path: Path) -> None:
    text = "TrainingArguments(evaluation_strategy=IntervalStrategy.STEPS)"
    assert _settings(tmp_path / "s.py", text) == {"eval_strategy": "steps"}


@pytest.mark.parametrize(
    "text",
    [
        "TrainingArguments(save_steps=cfg.steps)",
        "N = 1\nN = 2\nTrainingArguments(save_steps=N)",
        "N = 1\nfor N in range(3): pass\nTrainingArguments(save_steps=N)",
        "N = 1\nN += 1\nTrainingArguments(save_steps=N)",
        "def f(N=1):\n    TrainingArguments(save_steps=N)",
        "if big:\n    N = 1\nTrainingArguments(save_steps=N)",
        "TrainingArguments(save_steps=10 if fast else 20)",
        "N = N\nTrainingArguments(save_steps=N)",
        "TrainingArguments(save_steps=1 // 0)",
        "a = TrainingArguments(save_steps=3)\na.save_steps = int(input())",
        "a = TrainingArguments(save_steps=3)\na.save_steps *= 2",
        "kw = dict(save_steps=1)\nkw.update(load())\nTrainingArguments(**kw)",
        "kw = dict(save_steps=1)\nfor k in names: kw[k] = 2\nTrainingArguments(**kw)",
        "kw = dict(save_steps=1)\nif big: kw['save_steps'] = 2\nTrainingArguments(**kw)",
        "kw = dict(save_steps=1)\ndef more(): kw['save_steps'] = 2\nTrainingArguments(**kw)",
        "a = TrainingArguments(save_steps=3)\nif big: a.save_steps = 5",
        "def f(n):\n    TrainingArguments(save_steps=n)\nf(1)\nf(2)",
        "def f(n):\n    TrainingArguments(save_steps=n)\nf(1)\nuse(f)",
        "import os\nTrainingArguments(save_steps=int(os.environ.get('STEPS', 5)))",
        "TrainingArguments(**load())",
    ],
)
def test_values_that_only_running_it_would_tell_are_said_and_not_guessed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.py"
    path.write_text(text)
    (facts,) = read_script(path).facts

    with pytest.raises(NotKnown):
        facts.settings["save_steps"]
    assert facts.unread


def test_what_is_unread_names_line_and_expression_and_silences_its_rules(tmp_path: Path) -> None:
    found = report(tmp_path / "s.py", "SFTConfig(\n  save_strategy=cfg.when,\n  num_train_epochs=1)")

    assert found.unread == ("save_strategy=cfg.when (line 2)",)
    (gap,) = [gap for gap in found.gaps if gap.missing == found.unread[0]]
    assert "W301" in gap.rules
    assert "W301" not in {finding.id for finding in found.findings}


def test_a_parser_of_the_command_line_is_said(tmp_path: Path) -> None:
    text = "parser = HfArgumentParser((Mine, TrainingArguments))\na, b = parser.parse_args_into_dataclasses()"
    found = report(tmp_path / "s.py", text)
    assert found.findings == ()
    assert any("HfArgumentParser takes them from the command line" in line for line in found.unread)
    assert len(found.unread) == 1


def test_a_file_without_a_config_is_said(tmp_path: Path) -> None:
    (unread,) = report(tmp_path / "s.py", "print(1)").unread
    assert unread == "the training arguments: nothing here makes TrainingArguments, SFTConfig or one of their kind"


@pytest.mark.parametrize(
    ("text", "attached"),
    [
        ("import keepstep\nkeepstep.attach(t)", True),
        ("import keepstep as h\nh.attach(t)", True),
        ("from keepstep import attach\nattach(t)", True),
        ("from keepstep.transformers import ManagedTrainer\nclass T(ManagedTrainer, SFTTrainer): pass", True),
        ("atexit.attach(t)", False),
        ("import keepstep", False),
    ],
)
def test_attached(tmp_path: Path, text: str, attached: bool) -> None:
    path = tmp_path / "s.py"
    path.write_text("SFTConfig()\n" + text)
    (facts,) = read_script(path).facts
    assert facts.attached is attached


@pytest.mark.parametrize("keep", ['"best:1,latest:1"', "[Best(1), Latest(1)]", "[keepstep.Best(1), 'latest:1']", "K"])
def test_every_form_of_keep_is_read(tmp_path: Path, keep: str) -> None:
    text = f'import keepstep\nK = "best:1,latest:1"\nSFTConfig(eval_strategy="steps")\nkeepstep.attach(t, keep={keep})'
    assert "W204" in found(tmp_path / "s.py", text)


def test_a_keep_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    text = 'import keepstep\nSFTConfig(eval_strategy="steps")\nkeepstep.attach(t, keep=choose())'
    seen = report(tmp_path / "s.py", text)
    assert "attach(keep=choose()) (line 3)" in seen.unread
    assert "W204" not in {finding.id for finding in seen.findings}


def test_the_options_of_a_managed_trainer(tmp_path: Path) -> None:
    text = (
        "class T(ManagedTrainer, SFTTrainer): pass\nargs = SFTConfig(eval_strategy='steps')\n"
        "T(args=args, keepstep={'keep': 'latest:1'})"
    )
    assert "W204" in found(tmp_path / "s.py", text)


def test_a_model_that_is_set_to_train_resumes_nothing(tmp_path: Path) -> None:
    text = 'SFTConfig(resume_from_checkpoint="x")\nmodel.train(True)\ntrainer = SFTTrainer()\ntrainer.train()'
    assert "E303" in found(tmp_path / "s.py", text)


def test_several_configs_are_several_reports(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text('SFTConfig("a", save_total_limit=1)\nDPOConfig("b")')
    first, second = examine(tmp_path / "s.py")
    assert (first.target, second.target) == (f"{tmp_path}/s.py:1", f"{tmp_path}/s.py:2")


@pytest.mark.parametrize(
    ("comment", "ignored"),
    [
        ("# keepstep: ignore W204", True),
        ("# keepstep: ignore W102, W204", True),
        ("# keepstep: ignore", True),
        ("# keepstep: ignore W203", False),
        ("# ignore W204", False),
    ],
)
def test_a_comment_on_the_line_of_a_setting_silences_a_rule_there(tmp_path: Path, comment: str, ignored: bool) -> None:
    seen = report(tmp_path / "s.py", f"SFTConfig(\n    save_total_limit=1,  {comment}\n)")
    assert ("W204" in seen.ignored) is ignored
    assert ("W204" in {finding.id for finding in seen.findings}) is not ignored


def test_a_trainer_that_only_evaluates_is_no_training(tmp_path: Path) -> None:
    looks = "def f(m):\n    t = Trainer(m, args=TrainingArguments('o'))\n    return t.evaluate(data)\n"
    (only,) = examine(_script(tmp_path, looks))
    assert only.findings == ()
    (only,) = examine(_script(tmp_path, looks + "args = TrainingArguments('p', save_total_limit=1)"))
    assert only.target.endswith("s.py:4")
    (only,) = examine(_script(tmp_path, looks.replace("t.evaluate(data)", "t.evaluate(data), t.train()")))
    assert only.findings


def test_classes_that_only_sound_like_training_arguments(tmp_path: Path) -> None:
    text = "@dataclass\nclass DataTrainingArguments:\n    rows: int = 5\nDataTrainingArguments()"
    assert report(tmp_path / "s.py", text).unread == (
        "the training arguments: nothing here makes TrainingArguments, SFTConfig or one of their kind",
    )


def test_what_no_rule_asks_for_is_not_listed_as_not_known(tmp_path: Path) -> None:
    assert report(tmp_path / "s.py", "TrainingArguments('o', learning_rate=lr(), fp16=cuda())").unread == ()


def _script(path: Path, text: str) -> Path:
    (path / "s.py").write_text(text)
    return path / "s.py"


def test_a_text_that_looks_like_a_comment_silences_nothing(tmp_path: Path) -> None:
    assert "W204" in found(tmp_path / "s.py", 'SFTConfig(save_total_limit=1, run_name="# keepstep: ignore W204")')


def test_the_script_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    report(tmp_path / "s.py", f"open({str(mark)!r}, 'w')\nSFTConfig(save_steps=open({str(mark)!r}, 'w'))")
    assert not mark.exists()


# -- YAML --------------------------------------------------------------------------------------------------


def _yaml(path: Path, text: str) -> Report:
    (path / "sft.yaml").write_text(text)
    (only,) = examine(path / "sft.yaml")
    return only


def test_a_yaml_file_is_read_with_lines(tmp_path: Path) -> None:
    seen = _yaml(tmp_path, "model_name_or_path: m\nsave_strategy: epoch\nnum_train_epochs: 1\n")
    (finding,) = [finding for finding in seen.findings if finding.id == "W301"]
    assert finding.where.line == 2


def test_yaml_reads_no_as_false_and_numbers_as_texts(tmp_path: Path) -> None:
    seen = {f.id for f in _yaml(tmp_path, "eval_strategy: no\nsave_steps: 1e2\nmax_steps: '100'\n").findings}
    assert {"W102", "W301"} <= seen


def test_a_comment_in_yaml_silences_a_rule(tmp_path: Path) -> None:
    assert "W302" in _yaml(tmp_path, "save_strategy: no  # keepstep: ignore W302\n").ignored


@pytest.mark.parametrize(("use", "lost"), [("", True), ("use_peft: true\n", False), ("use_peft: false\n", True)])
def test_lora_settings_without_use_peft(tmp_path: Path, use: str, lost: bool) -> None:
    seen = {finding.id for finding in _yaml(tmp_path, use + "lora_r: 16\n").findings}
    assert ("W601" in seen) is lost


def test_trl_passes_the_configs_resume_on(tmp_path: Path) -> None:
    seen = {f.id for f in _yaml(tmp_path, "resume_from_checkpoint: true\nsave_only_model: true\n").findings}
    assert "E303" not in seen
    assert "E304" in seen


# -- what is none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.py", b"x = (\n", r"s\.py:1: '\(' was never closed"),
        ("s.py", b"x = '\xff'\n", "is no text"),
        ("s.py", b"\0", "s.py"),
        ("s.yaml", b"- a\n", "must hold a mapping"),
        ("s.yaml", b"a: [1\nb: 2\n", r"s\.yaml:2: "),
        ("s.yaml", b"\xff\xfe\xff", "is no text"),
        ("s.txt", b"", "neither a Python script"),
        ("s.py", b"(" * 5000, "s.py"),
        ("s.yaml", b"[" * 5000, "s.yaml"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        examine(tmp_path / name)


ODD = (
    "None", "True", "-1", "0", "0.5", "1e999", "-0.0", "10**9", "'abc'", "''", "'\\0'", "[]", "['a', 3]", "{}", "f()",
    "b'x'",
)  # fmt: skip


@given(data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_value_of_any_setting_breaks_the_doctor(tmp_path: Path, data: DataObject) -> None:
    """Nobody promises that a script is right: what is no number is simply not judged."""
    names = data.draw(lists(sampled_from(sorted(DEFAULTS)), unique=True))
    arguments = ", ".join(f"{name}={data.draw(sampled_from(ODD))}" for name in names)
    options = ", ".join(f"{name}={data.draw(sampled_from(ODD))}" for name in ("keep", "mode", "metric", "budget"))
    attach = f"keepstep.attach(t, {options})" if data.draw(booleans()) else ""
    text = f"import keepstep\nSFTConfig({arguments})\n{attach}\ntrainer.train({data.draw(sampled_from(ODD))})"

    seen = report(tmp_path / "s.py", text, step_seconds=1.0, checkpoint_bytes=10**9, grace=5.0)

    json.dumps(seen.to_json(), allow_nan=False)


def test_a_directory_that_is_no_run_names_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    with pytest.raises(KeepstepError, match=r"is no run directory[\s\S]*train\.py"):
        examine(tmp_path)


def test_stock_checkpoints_are_a_run_that_is_not_attached(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    (report,) = examine(tmp_path)
    assert "W703" in [finding.rule.id for finding in report.findings]
