"""What a mirror costs a training, what sending and bringing back cost, beside boto3 and s5cmd where they are installed.

python benchmarks/mirror.py step --rounds 3       # step times with and without a mirror on a slow link, in turn
python benchmarks/mirror.py push pull --megabytes 512
python benchmarks/mirror.py link --megabytes 256  # one stream against eight on a link of 60 MB/s a connection

The bucket is one of an S3 server (moto) on this machine, in a process of its own. CPU seconds are those of the process
that sends, or brings. `link` reads a directory as if each connection had so many bytes a second and 30 ms. Only
ratios within one run mean something; the load of the machine is printed with them.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.demo.second_home import BUCKET, second_home
from keepstep.mirror import open_mirror, pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import sync
from keepstep.run import Run

MEGABYTE = 10**6
STEPS, EVERY, WORK = 60, 10, 0.05
"""Steps of a measured training, steps between two saves, seconds of arithmetic in a step."""


# -- what is measured -----------------------------------------------------------------------------------


def step_times(home: Path, megabytes: int, rounds: int) -> None:
    """Seconds of a step of a loop that saves in the background, with a mirror on a slow link and without, in turn."""
    found: dict[str, list[float]] = {"without": [], "with": []}
    for number in range(rounds):
        for name in ("without", "with") if number % 2 else ("with", "without"):
            mirror = home / f"mirror-{number}" if name == "with" else None
            what = ("steps", str(home / f"{name}-{number}"), str(mirror or ""), str(megabytes))
            # In a process of its own: what one has left to send must not slow the other down.
            found[name] += [float(text) for text in _output([sys.executable, __file__, "child", *what]).split()]
            print(
                f"  round {number + 1}, {name:<8} median step {statistics.median(found[name]) * 1e3:.1f} ms", flush=True
            )
    with_, without = (statistics.median(found[name]) for name in ("with", "without"))
    high = [statistics.quantiles(found[name], n=20)[18] for name in ("with", "without")]
    print(f"a step with a mirror: {with_ / without:.3f} x the median without, {high[0] / high[1]:.3f} x at the 95th")


def _steps(run: Path, mirror: str, megabytes: int) -> list[float]:
    data = os.urandom(megabytes * MEGABYTE // 4)
    options = {} if not mirror else {"mirror": mirror, "mirror_bandwidth": "20MB/s", "mirror_wait": "1ms"}
    checkpointer = Checkpointer(run, "latest:2", **options)
    checkpointer.begin("auto")
    times: list[float] = []
    numbers = list(range(20_000))
    for step in range(1, STEPS + 1):
        began = time.perf_counter()
        end = began + WORK
        while time.perf_counter() < end:
            sum(numbers)
        if step % EVERY == 0:
            checkpointer.save_in_background(Facts(step), lambda directory: _writes(directory, data), lambda *_: None)
        times.append(time.perf_counter() - began)
    checkpointer.close()
    return times


def _writes(directory: Path, data: bytes) -> Callable[[Path], dict]:
    def finish(final: Path) -> dict:
        for number in range(4):
            (final / f"part-{number}.safetensors").write_bytes(data)
        return {}

    return finish


def push_costs(home: Path, address: str, megabytes: int) -> None:
    """CPU seconds a GiB and the peak of memory above what the process had, of each client, in a process each."""
    run = _saved(home / "run", megabytes)
    print(f"up, {megabytes} MB:")
    _tell("keepstep, every chunk compared", _child("push", str(run), f"{address}-up"), megabytes)
    files = sorted(str(path) for path in (run / "checkpoint-1").glob("*.safetensors"))
    if find_spec("boto3") is None:
        print("  boto3 is not installed: left out")
    else:
        _tell("boto3", _child("boto3", *files), megabytes)
    program = shutil.which("s5cmd")
    if program is None:
        print("  s5cmd is not installed: left out")
    else:
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        command = [program, "--endpoint-url", endpoint, "cp", *files[:1], f"s3://{BUCKET}/s5/"]
        _tell("s5cmd (one of four files)", _measured(command), megabytes // 4)


def pull_costs(home: Path, address: str, megabytes: int) -> None:
    """The same of bringing it back."""
    print(f"down, {megabytes} MB:")
    _tell("keepstep, every chunk compared", _child("pull", f"{address}-up", str(home / "back")), megabytes)


def link(home: Path, megabytes: int, rate: int) -> None:
    """Eight ranges at once against one, where each connection gets so many bytes a second."""
    run = _saved(home / "run-link", megabytes)
    mirror = open_mirror(home / "mirror-link")
    here = Run.open(run)
    sync(here, mirror, here.policy, plan_mirror(here, mirror, (), here.policy))
    record = mirror.newest()
    assert record is not None
    took: dict[int, float] = {}
    for jobs in (1, 8):
        slow = _Link(mirror.objects, rate * MEGABYTE)
        mirror.objects = slow
        began = time.perf_counter()
        pull(mirror, record, home / f"link-{jobs}", jobs=jobs)
        took[jobs] = time.perf_counter() - began
        mirror.objects = slow.objects
        print(f"  {jobs} at once: {took[jobs]:.2f} s, {megabytes / took[jobs]:.0f} MB/s", flush=True)
    print(f"eight ranges against one stream, {rate} MB/s a connection: {took[8] / took[1]:.2f} x")


class _Link:
    """A place whose connections, one a thread, are slow: a range takes the time of its bytes and one round trip."""

    def __init__(self, objects: object, rate: int) -> None:
        self.objects, self.rate = objects, rate

    def __getattr__(self, name: str) -> object:
        return getattr(self.objects, name)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        began = time.perf_counter()
        data = self.objects.read_range(key, start, length)
        time.sleep(max(0.0, began + 0.03 + len(data) / self.rate - time.perf_counter()))
        return data


# -- how ----------------------------------------------------------------------------------------------------


def _saved(path: Path, megabytes: int) -> Path:
    with Checkpointer(path, "all") as checkpointer:
        checkpointer.begin("auto")
        data = os.urandom(megabytes * MEGABYTE // 4)
        checkpointer.save(Facts(1), lambda directory: _writes(directory, data)(directory) and None)
    return path


def _child(*what: str) -> tuple[float, float]:
    return _measured([sys.executable, __file__, "child", *what])


def _measured(command: list[str]) -> tuple[float, float]:
    """CPU seconds and the peak of resident bytes of a command, or what it prints of both itself."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        own = process.stdout.read().split()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    if own[:1] == ["cpu"]:
        return float(own[1]), float(own[2])
    return used.ru_utime + used.ru_stime, float(used.ru_maxrss * 1024)


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def _tell(name: str, found: tuple[float, float], megabytes: int) -> None:
    each = found[0] / (megabytes * MEGABYTE / 2**30)
    print(f"  {name:<32} {each:6.2f} CPU s/GiB, memory +{found[1] / 2**20:.0f} MiB", flush=True)


def child(what: str, arguments: list[str]) -> None:
    """One measured thing in a process of its own; prints CPU seconds and bytes of memory beyond what it began with."""
    if what == "steps":
        print(*_steps(Path(arguments[0]), arguments[1], int(arguments[2])))
        return
    act = {"push": _push, "pull": _pull, "boto3": _boto3}[what]
    ready = act(arguments)
    cpu, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ready()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    print(f"cpu {time.process_time() - cpu} {grown * 1024}")


def _push(arguments: list[str]) -> Callable[[], object]:
    run, mirror = Run.open(Path(arguments[0])), open_mirror(arguments[1])
    import obstore  # noqa: F401

    return lambda: sync(run, mirror, run.policy, plan_mirror(run, mirror, (), run.policy))


def _pull(arguments: list[str]) -> Callable[[], object]:
    mirror = open_mirror(arguments[0])
    record = mirror.newest()
    assert record is not None
    return lambda: pull(mirror, record, Path(arguments[1]))


def _boto3(arguments: list[str]) -> Callable[[], object]:
    import boto3
    from boto3.s3.transfer import TransferConfig

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    config = TransferConfig(multipart_threshold=16 * 2**20, multipart_chunksize=16 * 2**20, max_concurrency=4)
    return lambda: [client.upload_file(path, BUCKET, f"b3/{Path(path).name}", Config=config) for path in arguments]


def main() -> None:
    """Run what is asked for and print its figures."""
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["step", "push", "pull", "link"], help="all of it by default")
    parser.add_argument("--megabytes", type=int, default=256, help="size of the checkpoint")
    parser.add_argument("--rounds", type=int, default=3, help="trainings with and without, in turn")
    parser.add_argument("--rate", type=int, default=60, help="MB/s of one connection of the slow link")
    asked = parser.parse_args()
    what = asked.what or ["step", "push", "pull", "link"]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the beginning", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        home = Path(name)
        if "step" in what:
            step_times(home, asked.megabytes, asked.rounds)
        if "link" in what:
            link(home, asked.megabytes, asked.rate)
        if {"push", "pull"} & set(what):
            with second_home(home / "mirror") as second:
                print(f"the place is {second.address}, {second.what}")
                push_costs(home, second.address, asked.megabytes)
                if "pull" in what:
                    pull_costs(home, second.address, asked.megabytes)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
