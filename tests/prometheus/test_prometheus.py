"""Metrics of runs and of trainings: over HTTP, as a file, and when neither can be."""

from __future__ import annotations

import logging
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.errors import SettingsError
from keepstep.prometheus import Address, parse_target, registry, serve, text_of, write_file
from tests.operations.runs import make_run, write

Sample = tuple[str, tuple[tuple[str, str], ...]]


def _samples(text: str) -> dict[Sample, float]:
    """Values by name and labels, without the run's identity."""
    return {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k != "run_id"))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _of(text: str, name: str, **labels: str) -> float | None:
    return _samples(text).get((f"keepstep_{name}", tuple(sorted(labels.items()))))


def test_numbers_of_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "sft", {1: 1.0, 2: 1.5, 3: 1.7}, keep="best:1,latest:1")
    text = text_of(registry(lambda: [tmp_path / "sft"]))
    assert _of(text, "saves_total", run="sft") == 3
    assert _of(text, "checkpoints_gone_total", run="sft", kind="thinned") == 1
    assert _of(text, "save_troubles_total", run="sft", kind="refused") == 0
    assert _of(text, "best_value", run="sft", metric="eval_loss") == 1.0
    assert _of(text, "checkpoint_bytes", run="sft") == 1900
    assert _of(text, "save_durable_seconds_bucket", run="sft", le="+Inf") == 3
    assert _of(text, "budget_bytes", run="sft") is None


def test_what_became_of_resumes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "sft", {1: 1.0})
    for told in (("exact", "proved"), ("approximate", "inferred")):
        receipt = {"step": 1, "level": "exact", "evidence": "compared"}
        run.events.append("resumed", **receipt)
        for _ in range(2):
            run.events.append("course", **receipt | dict(zip(("level", "evidence"), told, strict=True)))
    text = text_of(registry(lambda: [tmp_path / "sft"]))
    assert _of(text, "resumes_total", run="sft", exactness="exact") == 2
    assert _of(text, "resume_corrections_total", run="sft", exactness="approximate") == 1
    assert _of(text, "resume_corrections_total", run="sft", exactness="exact") == 0
    assert _of(text, "resumes_proved_total", run="sft") == 1


def test_buckets_never_fall(tmp_path: Path) -> None:
    make_run(tmp_path / "sft", dict.fromkeys(range(1, 9), 1.0))
    samples = _samples(text_of(registry(lambda: [tmp_path / "sft"])))
    counts = [value for (name, _), value in samples.items() if name == "keepstep_save_blocked_seconds_bucket"]
    assert counts == sorted(counts) and counts[-1] == 8


def test_runs_come_and_go_between_two_looks(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {1: 1.0})
    paths = [tmp_path / "a"]
    measured = registry(lambda: paths)
    assert _of(text_of(measured), "latest_step", run="a") == 1
    make_run(tmp_path / "b", {7: 1.0})
    paths.append(tmp_path / "b")
    assert _of(text_of(measured), "latest_step", run="b") == 7
    (tmp_path / "a" / ".keepstep" / "run.json").write_text('{"format": 1, "run_id": "a b"}')
    text = text_of(measured)
    assert _of(text, "latest_step", run="a") is None
    assert _of(text, "latest_step", run="b") == 7


def test_another_run_in_the_same_directory_is_counted_from_its_own_beginning(tmp_path: Path) -> None:
    import shutil

    measured = registry(lambda: [tmp_path / "a"])
    make_run(tmp_path / "a", {1: 1.0, 2: 1.0})
    assert _of(text_of(measured), "saves_total", run="a") == 2
    shutil.rmtree(tmp_path / "a")
    make_run(tmp_path / "a", {5: 1.0})
    assert _of(text_of(measured), "saves_total", run="a") == 1


def test_served_over_http(tmp_path: Path) -> None:
    make_run(tmp_path / "sft", {1: 1.0})
    found, stop = serve(registry(lambda: [tmp_path / "sft"]), Address("127.0.0.1", 0))
    try:
        with urllib.request.urlopen(str(found)) as answer:
            assert _of(answer.read().decode(), "latest_step", run="sft") == 1
    finally:
        stop()


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    make_run(tmp_path / "sft", {1: 1.0})
    target = tmp_path / "sft.prom"
    measured = registry(lambda: [tmp_path / "sft"])
    write_file(measured, target)
    first = target.stat().st_ino
    make_run(tmp_path / "sft", {2: 1.0})
    write_file(measured, target)
    assert target.stat().st_ino != first
    assert _of(target.read_text(), "latest_step", run="sft") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sft", "sft.prom"]


def _training(path: Path, prometheus: str) -> Checkpointer:
    checkpointer = Checkpointer(path, "latest:2", prometheus=prometheus)
    checkpointer.begin("auto")
    return checkpointer


def test_a_training_writes_its_file_after_every_save_and_at_its_end(tmp_path: Path) -> None:
    target = tmp_path / "sft.prom"
    checkpointer = _training(tmp_path / "sft", str(target))
    assert _of(target.read_text(), "saves_total", run="sft") == 0
    for step in (1, 2):
        checkpointer.save(Facts(step), write)
        assert _of(target.read_text(), "saves_total", run="sft") == step
        assert _of(target.read_text(), "in_use", run="sft") == 1
    checkpointer.close()
    assert _of(target.read_text(), "in_use", run="sft") == 0


def test_a_training_serves_until_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "keepstep"):
        checkpointer = _training(tmp_path / "sft", ":0")
    address = caplog.messages[-1].rpartition(" ")[2]
    checkpointer.save(Facts(1), write)
    with urllib.request.urlopen(address) as answer:
        assert _of(answer.read().decode(), "saves_total", run="sft") == 1
    checkpointer.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address)


def test_a_port_that_is_taken_does_not_stop_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        checkpointer = _training(tmp_path / "sft", f"127.0.0.1:{taken.getsockname()[1]}")
        assert checkpointer.save(Facts(1), write).step == 1
        checkpointer.close()
    assert "The training goes on without them" in caplog.text


def test_a_directory_that_is_missing_does_not_stop_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpointer = _training(tmp_path / "sft", str(tmp_path / "nowhere" / "sft.prom"))
    checkpointer.save(Facts(1), write)
    checkpointer.save(Facts(2), write)
    checkpointer.close()
    assert caplog.text.count("metrics could not be written") == 1


@pytest.mark.parametrize("text", ["", "9400", "host:port", ":70000", "/tmp/metrics.txt"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="prometheus is"):
        parse_target(text)


def test_targets() -> None:
    assert parse_target(":9400") == Address("127.0.0.1", 9400)
    assert parse_target("0.0.0.0:80") == Address("0.0.0.0", 80)
    assert parse_target("a/b.prom") == Path("a/b.prom")
