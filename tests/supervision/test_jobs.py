"""Jobs for SLURM and Kubernetes: well formed, and played with stand-ins for the programs of a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from keepstep.cli.main import main
from tests.supervision.commands import until


def printed(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="keepstep")


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """Programs in the place of a cluster's: `srun` runs what it is given, `scontrol` writes down what it is told."""
    place = tmp_path / "bin"
    place.mkdir()
    programs = {
        "srun": 'exec "$@"', "keepstep": f'exec {sys.executable} -m keepstep "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/controlled',
    }  # fmt: skip
    for name, text in programs.items():
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    return tmp_path


PROGRAM = """
import os, signal, sys, time
def save(*_): open(sys.argv[1] + '/saved', 'w'); sys.exit(75)
signal.signal(signal.SIGTERM, save)
if len(sys.argv) > 2: sys.exit(int(sys.argv[2]))
open(sys.argv[1] + '/up', 'w')
time.sleep(100)
"""


def script(cluster: Path, *more: str, array: bool = False) -> Path:
    (cluster / "it is.py").write_text(PROGRAM)
    options = ["--array", "0-3"] if array else []
    command = ["--no-attach", *options, "--", sys.executable, "it is.py", "{run}", *more]
    result = printed("slurm", *command)
    assert result.exit_code == 0, result.output
    (cluster / "job.sh").write_text(result.stdout)
    return cluster / "job.sh"


def begin(cluster: Path, job: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PATH": f"{cluster / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", **variables}
    return subprocess.Popen(
        ["bash", str(job)], cwd=cluster, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_the_script_is_one_of_bash_and_shellcheck_finds_nothing(cluster: Path) -> None:
    job = script(cluster, array=True)
    subprocess.run(["bash", "-n", job], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", job], check=True)
    lines = job.read_text().splitlines()
    heads = [line for line in lines if line.startswith("#SBATCH ")]
    assert lines[1 : 1 + len(heads)] == heads, "sbatch reads none behind the first command"
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@300", "#SBATCH --array=0-3"} <= set(heads)


@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_told_before_its_end_it_saves_and_goes_back_into_the_queue(cluster: Path, name: str) -> None:
    job = begin(cluster, script(cluster))
    until((cluster / "runs/17/up").exists)
    job.send_signal(signal.Signals[f"SIG{name}"])
    _, said = job.communicate(timeout=60)
    assert job.returncode == 0, said
    assert (cluster / "runs/17/saved").exists()
    assert (cluster / "controlled").read_text() == "requeue 17\n"


@pytest.mark.long
def test_an_end_or_a_failure_is_the_jobs_and_tasks_of_an_array_have_their_own_runs(cluster: Path) -> None:
    for code in ("0", "2"):
        job = begin(cluster, script(cluster, code, array=True), SLURM_ARRAY_JOB_ID="16", SLURM_ARRAY_TASK_ID=code)
        job.communicate(timeout=60)
        assert job.returncode == int(code)
    assert sorted(path.name for path in (cluster / "runs").iterdir()) == ["16-0", "16-2"]
    assert not (cluster / "controlled").exists()


@pytest.mark.parametrize("arguments", [["--name", "a b"], ["--time", "soon"], ["--array", "0; rm"], ["--root", "a\nb"]])
def test_nothing_comes_into_the_script_that_is_not_asked_for(arguments: list[str]) -> None:
    assert printed("slurm", *arguments, "--", "python", "train.py", "{run}").exit_code == 2


def test_words_are_quoted_and_a_command_without_its_run_is_refused(tmp_path: Path) -> None:
    text = printed("slurm", "--", "python", "$(touch x)", "--out={run}/a b").stdout
    assert "'$(touch x)' --out=\"$run\"'/a b'" in text
    refused = printed("slurm", "--", "python", "train.py")
    assert refused.exit_code == 2 and "{run}" in refused.stderr


# What the documentation of the API (batch/v1, Job; core/v1, PodSpec) says of the members that are used, and no other.
TEXT = {"type": "string", "minLength": 1}


def _object(required: str = "", **members: object) -> dict[str, object]:
    return {"type": "object", "properties": members, "required": required.split(), "additionalProperties": False}


def _list(one: object) -> dict[str, object]:
    return {"type": "array", "items": one, "minItems": 1}


CODES = _object(
    "operator values",
    operator={"enum": ["In", "NotIn"]},
    values=_list({"type": "integer", "minimum": 1, "maximum": 255}),
)
RULE = _object(
    "action", action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]}, onExitCodes=CODES,
    onPodConditions=_list(_object("type status", type=TEXT, status={"enum": ["True", "False", "Unknown"]})),
)  # fmt: skip
CONTAINER = _object(
    "name image", name=TEXT, image=TEXT, command=_list({"type": "string"}),
    resources=_object(limits={"type": "object"}),
    volumeMounts=_list(_object("name mountPath", name=TEXT, mountPath=TEXT)),
)  # fmt: skip
VOLUME = _object(
    "name", name=TEXT, persistentVolumeClaim=_object("claimName", claimName=TEXT),
    emptyDir=_object(medium={"enum": ["", "Memory"]}),
)  # fmt: skip
POD = _object(
    "containers restartPolicy", restartPolicy={"const": "Never"}, containers=_list(CONTAINER), volumes=_list(VOLUME),
    terminationGracePeriodSeconds={"type": "integer", "minimum": 0},
)  # fmt: skip
JOB = _object(
    "apiVersion kind metadata spec", apiVersion={"const": "batch/v1"}, kind={"const": "Job"},
    metadata=_object("name", name=TEXT),
    spec=_object(
        "template", backoffLimit={"type": "integer", "minimum": 0},
        podFailurePolicy=_object("rules", rules=_list(RULE)),
        template=_object("spec", spec=POD),
    ),
)  # fmt: skip


def test_the_manifest_is_a_job_to_which_a_preemption_is_no_failure() -> None:
    yaml = pytest.importorskip("yaml")
    words = ["python", "train.py", "--note", 'it\'s: "odd" # {x}\n- y', "--output_dir", "/runs/a"]
    result = printed("k8s", "--image", "me/train:1", "--claim", "runs", "--grace", "2m", "--", *words)
    assert result.exit_code == 0, result.output
    job = yaml.safe_load(result.stdout)
    jsonschema.validate(job, JOB)
    pod = job["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[-len(words) :] == words and command[:3] == ["keepstep", "run", "--attach"]
    assert pod["terminationGracePeriodSeconds"] == 120 and command[command.index("--grace") + 1] == "110s"
    codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in job["spec"]["podFailurePolicy"]["rules"][1:]}
    assert codes == {"Ignore": [75], "FailJob": [2, 6, 7, 9, 10]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert printed("k8s", "--image", "i", "--claim", "No_Name", "--", "x").exit_code == 2
