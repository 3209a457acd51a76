"""The table of faults between a run and a real server: what comes of each, in bytes and in words.

`docs/mirror-faults.md` has a row for each of these.
"""

from __future__ import annotations

import filecmp
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.errors import CheckpointCorrupt, MirrorUnavailable
from keepstep.mirror import BucketObjects, Mirror, Patience, check
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import Synced, sync
from keepstep.retention import Policy
from keepstep.run import Run
from tests.mirror import faulty, servers
from tests.mirror.faulty import Fault, Line, says
from tests.operations.runs import LOSS, training, write

pytestmark = pytest.mark.servers
QUICK = Patience(outage=6, tries=6, longest_pause=0.05, silence=2, upload=2)
DATA, LARGE, RECORD, CLAIM = "(PUT|POST) .*/data/", "(PUT|POST) .*/data/.*/model", "PUT .*/commits/", "PUT .*/writers/"
PARTS, RECORDS, DELETES = "GET .*/data/", "GET .*/commits/", "(POST .*delete|DELETE )"
_LARGE = 17 * 2**20


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two checkpoints: a small one, and one with a file that goes in two parts."""
    path = tmp_path_factory.mktemp("faults") / "run"

    def fill(size: int) -> Callable[[Path], None]:
        def write(directory: Path) -> None:
            (directory / "model.safetensors").write_bytes(bytes(range(256)) * (size // 256))
            (directory / "optimizer.pt").write_bytes(b"o" * 1000)

        return write

    with training(path) as checkpointer:
        checkpointer.save(Facts(10, metrics={"eval_loss": 0.5}), fill(2048))
        checkpointer.save(Facts(20, metrics={"eval_loss": 0.4}), fill(_LARGE))
    return Run.open(path)


@dataclass
class Place:
    """A mirror of its own, through a line that can be spoiled, and past it."""

    line: Line
    url: str
    server: servers.Server

    @property
    def mirror(self) -> Mirror:
        """Opened anew: it knows nothing yet."""
        return Mirror(BucketObjects(self.url, QUICK))


@pytest.fixture
def place(seaweed: servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with faulty.line_to(seaweed.port) as line:
        servers.use(seaweed, monkeypatch, line.port)
        yield Place(line, f"s3://{servers.BUCKET}/{tmp_path.name}", seaweed)


def _sync(run: Run, mirror: Mirror, keep: str = "all") -> Synced:
    policy = Policy.from_spec(keep, LOSS)
    return sync(run, mirror, policy, plan_mirror(run, mirror, mirror.records(), policy))


def _cut_there(mirror: Mirror, key: str, size: int) -> None:
    data = mirror.objects.read(key, limit=2 * _LARGE)[:size]
    mirror.objects.put(key, [data], len(data))


def _whole(mirror: Mirror) -> list[int]:
    """The steps that are there, every byte read back."""
    records = mirror.records()
    assert all(check(mirror, record) == () for record in records)
    assert len(list(mirror.names())) == len(records)
    return [record.checkpoint.step for record in records]


PASSING = {
    "the server is busy for a moment": (".*", says(503, "SlowDown"), 3),
    "the server fails for a moment": (DATA, says(500, "InternalError"), 3),
    "the server asks to slow down": (DATA, says(429, "TooManyRequests", Retry_After="600"), 3),
    "the line breaks in a part": (LARGE, faulty.resets, 2),
    "the line breaks in a claim": (CLAIM, faulty.resets, 1),
    "the answer to a part is lost": (LARGE, faulty.loses_the_answer, 2),
    "the answer to a claim is lost": (CLAIM, faulty.loses_the_answer, 1),
    "the answer to a record is lost": (RECORD, faulty.loses_the_answer, 1),
    "the answer to a record is cut": (RECORD, faulty.cuts_the_answer, 1),
    "a bit flips in a part": (LARGE, faulty.flips_up, 1),
    "a bit flips in a small file": ("PUT .*/optimizer", faulty.flips_up, 1),
    "a bit flips in a record": (RECORD, faulty.flips_up, 1),
    "the server forgets an upload": (f"{LARGE}.*partNumber=2", says(404, "NoSuchUpload"), 1),
    "the server is slow": (".*", faulty.is_slow(0.1), 20),
}


@pytest.mark.parametrize("name", PASSING)
def test_up_what_passes_is_not_said(run: Run, place: Place, caplog: pytest.LogCaptureFixture, name: str) -> None:
    what, fault, times = PASSING[name]
    meant = place.line.spoil(what, fault, times)
    done = _sync(run, place.mirror)
    assert meant.struck == times or meant.left > 0
    assert meant.struck > 0 and done.exclusive and not done.failed
    assert [record.checkpoint.step for record in done.sent] == [20, 10] and caplog.text == ""
    assert _whole(place.mirror) == [20, 10]


LASTING = {
    "the server is busy for long": (DATA, says(503, "SlowDown"), "503|SlowDown"),
    "the line breaks every time": (DATA, faulty.resets, "Error|error"),
    "the bucket is full": (DATA, says(507, "InsufficientStorage"), "507|InsufficientStorage"),
    "a quota is used up": (DATA, says(403, "QuotaExceeded"), "refuses"),
    "the credentials may not write": (DATA, says(403, "AccessDenied"), "refuses"),
    "the credentials have expired": (".*", says(400, "ExpiredToken"), "refuses.*ExpiredToken"),
    "the clock here is wrong": (".*", says(403, "RequestTimeTooSkewed"), "refuses.*RequestTimeTooSkewed"),
    "the key is unknown": (".*", says(403, "InvalidAccessKeyId"), "refuses"),
    "a bit flips in every part": (LARGE, faulty.flips_up, "BadDigest.*changed on their way"),
    "records are refused": (RECORD, says(503, "SlowDown"), "503|SlowDown"),
}


@pytest.mark.parametrize("name", [*LASTING, "the server is silent", "the server is silent about a record"])
def test_up_what_lasts_is_said_and_made_up_for(run: Run, place: Place, name: str) -> None:
    silent = {
        "the server is silent": (DATA, faulty.is_silent(place.line, 60), "time|Time|error"),
        "the server is silent about a record": (RECORD, faulty.is_silent(place.line, 60), "time|Time|error"),
    }
    what, fault, words = {**LASTING, **silent}[name]
    meant = place.line.spoil(what, fault)
    with pytest.raises(MirrorUnavailable, match=words) as caught:
        _sync(run, place.mirror)
    said = str(caught.value)
    assert meant.struck and place.url in said and servers.SECRET not in said and len(caught.value.message) < 600
    assert ("credentials" in said) == ("refuses" in words)
    place.line.faults.clear()
    assert _whole(place.mirror) == []
    assert [record.checkpoint.step for record in _sync(run, place.mirror).sent] == [20, 10]
    assert _whole(place.mirror) == [20, 10]


def test_a_bucket_that_is_not_there(run: Run, place: Place) -> None:
    mirror = Mirror(BucketObjects("s3://no-such-bucket/run", QUICK))
    for ask in (lambda: _sync(run, mirror), lambda: mirror.begin(run.id), mirror.records):
        with pytest.raises(MirrorUnavailable, match="there is no bucket 'no-such-bucket'"):
            ask()


def test_nobody_listens(run: Run, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers.free_port()}")
    with pytest.raises(MirrorUnavailable, match=re.escape(place.url)):
        _sync(run, place.mirror)


def test_what_may_not_be_removed_stays_and_is_said(run: Run, place: Place) -> None:
    """As with an object lock."""
    assert len(_sync(run, place.mirror).sent) == 2
    place.line.spoil(DELETES, says(403, "AccessDenied"))
    with pytest.raises(MirrorUnavailable, match="refuses"):
        _sync(run, place.mirror, "latest:1")
    place.line.faults.clear()
    assert _whole(place.mirror) == [20, 10]
    assert len(_sync(run, place.mirror, "latest:1").dropped) == 1 and _whole(place.mirror) == [20]


def _came(mirror: Mirror, target: Path) -> tuple[list[int], list[str]]:
    said: list[str] = []
    bring(mirror, plan_pull(mirror, target, "latest"), older=True, on_damage=said.append)
    return [checkpoint.step for checkpoint in Run.open(target).checkpoints], said


DOWN: dict[str, tuple[str, Fault, int]] = {
    "the server is busy for a moment": (".*", says(503, "SlowDown"), 3),
    "the line breaks": (PARTS, faulty.resets, 3),
    "an answer is cut": (PARTS, faulty.cuts_the_answer, 3),
    "a record's answer is cut": (RECORDS, faulty.cuts_the_answer, 2),
    "an answer stalls": (PARTS, faulty.stalls_in_the_answer, 2),
    "a record's answer stalls": (RECORDS, faulty.stalls_in_the_answer, 1),
    "an answer is shorter than was asked for": (PARTS, faulty.shortens_the_answer, 2),
    "a bit flips": (PARTS, faulty.flips_down, 2),
    "a bit flips in a record": (RECORDS, faulty.flips_down, 2),
}


@pytest.mark.parametrize("name", [*DOWN, "the server is silent"])
def test_down_what_passes_is_not_said(
    run: Run, place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    _sync(run, place.mirror)
    what, fault, times = {**DOWN, "the server is silent": (PARTS, faulty.is_silent(place.line, 600), 1)}[name]
    meant = place.line.spoil(what, fault, times)
    mirror = Mirror(BucketObjects(place.url, replace(QUICK, upload=300)))
    assert _came(mirror, tmp_path / "there") == ([20], [])
    assert meant.struck and caplog.text == ""
    for file in ("model.safetensors", "optimizer.pt"):
        there = tmp_path / "there" / "checkpoint-20" / file
        assert filecmp.cmp(run.path / "checkpoint-20" / file, there, shallow=False)


def test_down_where_bits_flip_every_time_the_next_older_comes(run: Run, place: Place, tmp_path: Path) -> None:
    _sync(run, place.mirror)
    place.line.spoil(f"{PARTS}00000002", faulty.flips_down)
    came, said = _came(place.mirror, tmp_path / "there")
    assert came == [10] and len(said) == 1 and "has other bytes than were committed" in said[0]
    place.line.spoil(PARTS, faulty.flips_down)
    with pytest.raises(CheckpointCorrupt, match="has other bytes than were committed"):
        _came(place.mirror, tmp_path / "nowhere")
    assert not list((tmp_path / "nowhere").glob("checkpoint-*"))


@pytest.mark.parametrize("size", [_LARGE - 1, 2**20, 0])
def test_down_what_was_cut_there_is_damage(run: Run, place: Place, tmp_path: Path, size: int) -> None:
    _sync(run, place.mirror)
    _cut_there(place.mirror, f"{place.mirror.records()[0].home}/model.safetensors", size)
    came, said = _came(place.mirror, tmp_path / "there")
    assert came == [10] and "has other bytes than were committed" in said[0]


@pytest.mark.parametrize(
    ("fault", "words"), [(says(403, "AccessDenied"), "refuses"), (says(503, "SlowDown"), "503|SlowDown")]
)
def test_down_what_lasts_is_said_and_nothing_is_left_here(
    run: Run, place: Place, tmp_path: Path, fault: Fault, words: str
) -> None:
    _sync(run, place.mirror)
    place.line.spoil(PARTS, fault)
    with pytest.raises(MirrorUnavailable, match=words):
        _came(place.mirror, tmp_path / "there")
    assert not list((tmp_path / "there").glob("checkpoint-*"))
    place.line.faults.clear()
    assert _came(place.mirror, tmp_path / "there") == ([20], [])


# -- while a training runs ---------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that gives up a question soon, and asks again soon."""
    monkeypatch.setattr("keepstep.mirror.bucket_objects.PATIENCE", Patience(1, 1, 0.05, 1, 2))
    monkeypatch.setattr("keepstep.checkpointer.courier.FIRST_PAUSE", 0.1)
    monkeypatch.setattr("keepstep.checkpointer.courier.LONGEST_PAUSE", 0.2)


def _wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


OUTAGES = {
    "it is busy": says(503, "SlowDown"),
    "lines break": faulty.resets,
    "the credentials expire": says(400, "ExpiredToken"),
    "the bucket is full": says(507, "InsufficientStorage"),
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("name", OUTAGES)
def test_a_training_goes_on_through_an_outage_says_it_once_and_makes_up_for_it(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    checkpointer = Checkpointer(tmp_path / "run", "all", mirror=place.url)
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    _wait(lambda: [record.checkpoint.step for record in place.mirror.records()] == [1])
    place.line.spoil("(PUT|POST|DELETE) ", OUTAGES[name])
    for step in (2, 3):
        checkpointer.save(Facts(step), write)
    _wait(lambda: "The mirror is behind" in caplog.text)
    place.line.faults.clear()
    checkpointer.close()
    assert _whole(place.mirror) == [3, 2, 1]
    assert caplog.text.count("The mirror is behind") == caplog.text.count("The mirror answers again") == 1
    assert servers.SECRET not in caplog.text and "Nothing is mirrored any more" not in caplog.text
    assert [c.step for c in Run.open(tmp_path / "run").checkpoints] == [1, 2, 3]


@pytest.mark.usefixtures("hurried")
def test_a_training_whose_mirror_lets_nothing_be_removed_goes_on_and_its_end_waits_for_nothing(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.line.spoil(DELETES, says(403, "AccessDenied"))
    checkpointer = Checkpointer(tmp_path / "run", "latest:1", mirror=place.url)
    checkpointer.begin("auto")
    for step in (1, 2, 3):
        checkpointer.save(Facts(step), write)
        _wait(lambda step=step: place.mirror.records()[:1] and place.mirror.records()[0].checkpoint.step == step)
    checkpointer.close()
    assert _whole(place.mirror)[0] == 3
    assert caplog.text.count("What the policy drops stays in the mirror for now") == 1 and "refuses" in caplog.text
    assert "is behind" not in caplog.text and "lacks" not in caplog.text and "Waiting" not in caplog.text


@pytest.mark.usefixtures("hurried")
def test_a_training_begins_where_the_credentials_are_wrong_and_says_what_to_look_at(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.line.spoil(".*", says(403, "InvalidAccessKeyId"))
    checkpointer = Checkpointer(tmp_path / "run", "all", mirror=place.url, mirror_wait="1s")
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    checkpointer.close()
    assert "The mirror can't be asked, and it begins without" in caplog.text
    assert "refuses" in caplog.text and "InvalidAccessKeyId" in caplog.text
    assert f"keepstep mirror sync {tmp_path / 'run'} {place.url}" in caplog.text
    assert servers.SECRET not in caplog.text
    required = Checkpointer(tmp_path / "other", "all", mirror=place.url, mirror_required=True)
    with pytest.raises(MirrorUnavailable, match="InvalidAccessKeyId"):
        required.begin("auto")
