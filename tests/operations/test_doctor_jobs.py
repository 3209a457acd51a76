"""Job files: what they say, and what that means for the training that they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keepstep.errors import SettingsError
from keepstep.operations.doctor import Finding, Options, Report, examine, examine_together
from keepstep.operations.doctor.job_file import read_job_file
from keepstep.operations.doctor.settings import NotKnown
from keepstep.operations.doctor.targets import read_targets
from keepstep.supervision.slurm import SlurmJob
from tests.operations.doctoring import RANKED, S
from tests.supervision.commands import is_alive, until

TRAINING = S(f'"runs/a", save_total_limit=3, {RANKED}').text
RESUMING = S(f'"runs/a", save_total_limit=3, {RANKED}', train="resume_from_checkpoint=True").text
LARGE = Options(checkpoint_bytes=100 * 10**9, step_seconds=1.0)
POD = """
apiVersion: batch/v1
kind: Job
metadata: {name: sft}
spec:
  template:
    spec:
      containers: [{name: train, image: mine, command: [python, train.py]}]
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def _job(*options: str, body: str = "srun python train.py", name: str = "job.sbatch") -> Path:
    lines = "".join(f"#SBATCH {option}\n" for option in options)
    Path(name).write_text(f"#!/bin/bash\n# mine\n{lines}\nmodule load cuda\n{body}\n")
    return Path(name)


def _training(text: str = TRAINING, name: str = "train.py") -> Path:
    Path(name).write_text(text)
    return Path(name)


def _ids(*targets: Path, options: Options | None = None) -> dict[str, Finding]:
    return {f.id: f for report in examine_together(targets, options) for f in report.findings}


@pytest.mark.parametrize(
    ("option", "seconds"),
    [
        ("--signal=B:TERM@300", 300.0),
        ("--signal USR1@90  # comment", 90.0),
        ("--signal='TERM@120'", 120.0),
        ("--signal=15@200", 200.0),
        ("--signal=TERM", 60.0),
        ("--nodes=1", 30.0),
        ("--signal=$SIG", None),
    ],
)
def test_the_grace_period_of_a_slurm_job(option: str, seconds: float | None) -> None:
    found = read_job_file(_job(option))
    assert found.job.grace == seconds
    assert found.unread == (() if seconds else ("--signal=$SIG (line 3)",))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:30", 5430), ("2:00:00", 7200), ("1-12", 129600), ("1-12:30", 131400), ("1-12:30:10", 131410)],
)
def test_the_time_limit_in_all_its_forms(text: str, seconds: int) -> None:
    for option in (f"--time={text}", f"-t {text}", f"--time {text}"):
        assert read_job_file(_job(option)).job.limit == seconds


@pytest.mark.parametrize(("text", "unread"), [("UNLIMITED", False), ("0", False), ("soon", True)])
def test_a_limit_that_is_none_or_is_not_read(text: str, unread: bool) -> None:
    found = read_job_file(_job(f"--time={text}"))
    assert found.job.limit is None
    assert bool(found.unread) is unread


def test_what_sbatch_passes_over_is_not_read() -> None:
    _job()
    Path("job.sbatch").write_text(
        "#!/bin/bash\n##SBATCH --signal=TERM@600\n# SBATCH --requeue\n#SBATCH --requeue\n#SBATCH --no-requeue\n"
        "echo begins\n#SBATCH --signal=TERM@900\npython train.py\n"
    )
    job = read_job_file(Path("job.sbatch")).job
    assert (job.grace, job.restarts) == (30.0, "")


@pytest.mark.parametrize(("line", "seconds"), [("", 30.0), ("      terminationGracePeriodSeconds: 400\n", 400.0)])
def test_the_grace_period_of_a_pod(line: str, seconds: float) -> None:
    Path("job.yaml").write_text(f"apiVersion: v1\nkind: ConfigMap\ndata: {{a: b}}\n---{POD}{line}")
    job = read_job_file(Path("job.yaml")).job
    assert (job.grace, job.line) == (seconds, 12 if line else 0)
    assert ("E503" in _ids(Path("job.yaml"), _training(), options=LARGE)) is (seconds < 100)


def test_e503_the_job_says_how_long_a_save_may_take() -> None:
    finding = _ids(_job("--signal=B:TERM@90"), _training(), options=LARGE)["E503"]
    assert "SLURM (job.sbatch:3, --signal=B:TERM@90) is 1.5 min" in finding.what
    assert finding.where.path == "train.py"
    assert "E503" not in _ids(_job("--signal=TERM@300"), _training(), options=LARGE)
    assert "E503" not in _ids(_job("--signal=$SIG"), _training(), options=LARGE)
    given = Options(checkpoint_bytes=LARGE.checkpoint_bytes, step_seconds=1.0, grace=30.0)
    assert "E503" in _ids(_job("--signal=TERM@300"), _training(), options=given), "--grace is what a person knows"


def test_e503_of_a_job_alone_and_once_beside_its_training() -> None:
    job = _job("--signal=TERM@90")
    assert str(_ids(job, options=LARGE)["E503"].where) == "job.sbatch:3"
    (alone,) = examine(job)
    assert [gap.rules for gap in alone.gaps] == [("E503",)]
    found = [f.id for report in examine_together([job, _training()], LARGE) for f in report.findings]
    assert found.count("E503") == 1


def test_a_job_belongs_to_the_training_that_it_names() -> None:
    short = _job("--signal=TERM@30", name="short.sh", body="srun python a.py")
    long = _job("--signal=TERM@300", name="long.sh", body="srun python b.py")
    one, two = (_training(S(f'"runs/{name}"').text, f"{name}.py") for name in "ab")
    reports = {r.target: r for r in examine_together([short, long, one, two], LARGE)}
    judged = {Path(target).name.partition(":")[0]: _has(report, "E503") for target, report in reports.items()}
    assert judged == {"short.sh": False, "long.sh": False, "a.py": True, "b.py": False}


def test_a_job_that_names_another_file_says_nothing_of_this_one() -> None:
    job = _job("--requeue", body="srun python train.py --config other")
    reports = examine_together([job, _training(), _training(S('"runs/b"').text, "second.py")])
    assert [_has(report, "E505") for report in reports] == [False, True, False]
    assert "E505" in _ids(job, _training(S('"runs/b"').text, "second.py")), "it may start it by another name"


def _has(report: Report, id_: str) -> bool:
    return id_ in {finding.id for finding in report.findings}


@pytest.mark.parametrize(
    ("signal_", "body", "speaks"),
    [
        ("TERM@300", "srun python train.py", False),
        ("TERM@300", "srun \\\n  torchrun train.py", False),
        ("TERM@300", "python train.py", True),
        ("TERM@300", "# srun\ntorchrun train.py", True),
        ("B:TERM@300", "python train.py", True),
        ("B:TERM@300", "srun python train.py", True),
        ("B:TERM@300", "exec python train.py", False),
        ("B:TERM@300", "trap 'kill -TERM $pid' TERM\npython train.py & pid=$!\nwait $pid", False),
        ("B:TERM@300", "source run.sh\npython train.py", False),
        ("B:TERM@300", "./start", False),
    ],
)
def test_w504_who_hears_the_signal(signal_: str, body: str, *, speaks: bool) -> None:
    assert ("W504" in _ids(_job(f"--signal={signal_}", body=body))) is speaks


HANDS_ON = "--signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


@pytest.mark.parametrize(
    ("signal_", "body", "speaks"),
    [
        ("USR1@300", "srun torchrun train.py", True),
        ("SIGUSR2", "srun --label \\\n  torchrun --nproc-per-node 4 train.py", True),
        ("10@300", "RUN='python -m torch.distributed.run'\nsrun $RUN train.py", True),
        ("USR1@300", "srun bash -c 'torchrun train.py'", True),
        ("R:USR1@300", "srun torchrun train.py", True),
        ("TERM@300", "srun torchrun train.py", False),
        ("15@300", "srun torchrun train.py", False),
        ("USR1@300", f"srun torchrun {HANDS_ON} train.py", False),
        ("USR1@300", f"srun torchrun {HANDS_ON.replace(' ', '=')} train.py", False),
        ("USR2@300", f"srun torchrun {HANDS_ON} train.py", True),
        ("USR1@300", "srun python train.py", False),
        ("USR1@300", "srun keepstep run --attach -- torchrun train.py", False),
        ("USR1@300", "torchrun train.py", False),
        ("B:USR1@300", "exec torchrun train.py", True),
        ("B:USR1@300", "trap 'kill -USR1 $pid' USR1\ntorchrun train.py & pid=$!\nwait $pid", True),
        ("B:USR1@300", "trap 'kill -s SIGUSR1 $pid' USR1\ntorchrun train.py & pid=$!\nwait $pid", True),
        ("B:USR1@300", "trap 'kill -TERM $pid' USR1\ntorchrun train.py & pid=$!\nwait $pid", False),
        ("B:USR1@300", "torchrun train.py", False),
    ],
)
def test_w507_which_signal_reaches_torchrun(signal_: str, body: str, *, speaks: bool) -> None:
    found = _ids(_job(f"--signal={signal_}", body=body))
    assert ("W507" in found) is speaks
    if speaks:
        assert f"--signal={signal_}: torchrun does not know SIGUSR" in found["W507"].what
        assert found["W507"].where.line == 3


def test_a_job_that_keepstep_makes_has_a_signal_that_torchrun_knows() -> None:
    Path("job.sbatch").write_text(SlurmJob(("torchrun", "train.py", "{run}"), options=()).script())
    assert not {"W504", "W507"} & _ids(Path("job.sbatch")).keys()


@pytest.mark.parametrize("hands_on", [False, True])
@pytest.mark.quick(1)
def test_a_signal_that_torchrun_does_not_know_ends_it_and_not_its_workers(tmp_path: Path, *, hands_on: bool) -> None:
    """The reason for W507, with the real one."""
    pytest.importorskip("torch")
    worker = tmp_path / "worker.sh"
    worker.write_text("trap 'echo heard > heard; exit 0' USR1\necho $$ > pid\nwhile :; do sleep 0.05; done\n")
    command = [sys.executable, "-m", "torch.distributed.run", *(HANDS_ON.split() if hands_on else []), "--standalone"]
    with subprocess.Popen([*command, "--no-python", "bash", str(worker)], cwd=tmp_path) as agent:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
        agent.send_signal(signal.SIGUSR1)
        code = agent.wait(60)
    pid = int((tmp_path / "pid").read_text())
    try:
        if hands_on:
            until((tmp_path / "heard").exists)
        else:
            assert code == -signal.SIGUSR1
            time.sleep(0.3)
            assert is_alive(pid) and not (tmp_path / "heard").exists()
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


MANAGED = S(f'"runs/a", enable_jit_checkpoint=True, save_total_limit=3, {RANKED}').text


def test_what_keepstep_run_manages_is_judged_as_that() -> None:
    """The script says nothing of keepstep: its command does."""
    training = _training(MANAGED)
    alone = _ids(_job("--requeue", body="srun python train.py"), training)
    assert {"E306", "E505"} <= alone.keys()
    managed = _ids(
        _job("--requeue", body='srun keepstep run --attach --keep "best:2,latest:2" -- python train.py'), training
    )
    assert not {"E306", "E505"} & managed.keys()
    watched = _ids(_job("--requeue", body="srun keepstep run -- python train.py"), training)
    assert {"E306", "E505"} <= watched.keys(), "without --attach nothing is managed"


def test_what_keepstep_run_keeps_is_read_from_its_command() -> None:
    job = _job(body="srun keepstep run --attach --keep=latest:1 --budget $ROOM -- python train.py")
    facts = read_targets([_training(), job])[0].facts[0]
    assert facts.attached and facts.keep is not None and facts.budget is not None
    assert facts.value(facts.keep, "keep") == "latest:1"
    with pytest.raises(NotKnown):
        facts.value(facts.budget, "budget")


def test_w504_is_silent_without_a_signal_and_where_it_is_asked_to_be() -> None:
    assert "W504" not in _ids(_job("--time=60", body="python train.py"))
    quiet = _job("--signal=TERM@300 # keepstep: ignore W504", body="python train.py")
    (report,) = examine(quiet)
    assert report.ignored == ("W504",)


@pytest.mark.parametrize(("start", "heard"), [("", False), ("exec ", True)])
def test_a_shell_that_is_signalled_passes_nothing_on(tmp_path: Path, start: str, *, heard: bool) -> None:
    """The reason for W504, with a real shell: `B:` signals the batch shell, and nobody else."""
    said = tmp_path / "said"
    (tmp_path / "train.py").write_text(
        "import os, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(said)!r}, 'w').write('heard'), os._exit(0)))\n"
        "print('ready', flush=True)\ntime.sleep(3)\n"
    )
    (tmp_path / "job.sh").write_text(f"{start}{sys.executable} train.py\necho done\n")
    with subprocess.Popen(["bash", "job.sh"], stdout=subprocess.PIPE, text=True, start_new_session=True) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "ready\n"
        os.kill(shell.pid, signal.SIGTERM)
        shell.wait()
        shell.stdout.read()
    time.sleep(0.1)
    assert said.exists() is heard


def test_e505_a_job_that_starts_anew_needs_a_training_that_resumes() -> None:
    job = _job("--requeue")
    assert "job.sbatch:3 says --requeue" in _ids(job, _training())["E505"].what
    assert "E505" not in _ids(job, _training(RESUMING))
    assert "E505" not in _ids(_job("--time=60"), _training())
    assert "E505" not in _ids(_job("--requeue"), _training("print()"))
    Path("sft.yaml").write_text("output_dir: runs/b\n")
    assert "E505" in _ids(job, Path("sft.yaml"))
    Path("sft.yaml").write_text("output_dir: runs/b\nresume_from_checkpoint: true\n")
    assert "E505" not in _ids(job, Path("sft.yaml"))


def test_w506_a_limit_before_the_first_save() -> None:
    options = Options(step_seconds=60.0)
    assert (
        "a save every 1.7 h, and job.sbatch:3 limits the job to 1 h"
        in _ids(_job("--time=60"), _training(), options=options)["W506"].what
    )
    assert "W506" not in _ids(_job("--time=101"), _training(), options=options)
    assert "W506" not in _ids(_job("--time=UNLIMITED"), _training(), options=options)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("job.sh", "echo hello\n", "no #SBATCH line and starts no training"),
        ("job.yaml", "apiVersion: v1\nkind: ConfigMap\n", "without a pod"),
        ("job.yaml", "apiVersion: v1\nkind: Job\n a: [\n", "job.yaml:3|is no YAML"),
        ("job.txt", "", "nor a job file"),
    ],
)
def test_what_is_no_job_is_said(name: str, text: str, said: str) -> None:
    Path(name).write_text(text)
    with pytest.raises(SettingsError, match=said):
        examine(Path(name))


# -- two trainings in one directory, in two files ----------------------------------------------------------------


def test_e405_across_files(tmp_path: Path) -> None:
    one = _training()
    Path("sft.yaml").write_text(f"save_steps: 3\noutput_dir: {tmp_path}/x/../runs/a\n")
    finding = _ids(one, Path("sft.yaml"))["E405"]
    assert str(finding.where) == "sft.yaml:2"
    assert "is that of train.py:" in finding.what
    assert "E405" not in _ids(one, one)
    assert "E405" not in _ids(_training(name="two.py"), _training(S('"runs/b"').text))
    assert "E405" not in _ids(one, _training(RESUMING, "two.py")), "the second goes on from the first"
    no_training = _training('from trl import SFTConfig\nSFTConfig("runs/a")\n', "evaluate.py")
    assert "E405" not in _ids(one, no_training)


@pytest.mark.parametrize(
    ("flags", "body", "unheard"),
    [
        ("", "/usr/bin/srun python train.py", False),
        ("B:", "cd work && exec python train.py", False),
        ("B:", "set -e; trap 'kill -TERM $child' TERM\npython train.py & child=$!; wait", False),
        ("B:", "exec > log.txt\npython train.py", True),
    ],
)
def test_w504_reads_commands_and_not_lines(flags: str, body: str, *, unheard: bool) -> None:
    job = _job(f"--signal={flags}TERM@300", body=body)
    assert ("W504" in _ids(job, _training())) is unheard


@pytest.mark.parametrize(("option", "limit"), [("-t10:00", 600.0), ("--time=0:00:00", None), ("--time=0", None)])
def test_short_options_and_limits_of_zero(option: str, limit: float | None) -> None:
    found = read_job_file(_job(option))
    assert (found.job.limit, found.unread) == (limit, ())


def test_aliases_in_a_manifest_are_followed_once() -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    Path("pod.yaml").write_text("apiVersion: v1\nkind: Pod\nl0: &l0 [a]\n" + levels + "spec: {containers: []}\n")
    assert read_job_file(Path("pod.yaml")).job.grace == 30.0
