"""What a mirror costs: requests as they are counted, times prices. `python -m tests.mirror.costs` writes the page."""

# ruff: noqa: E501
from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from keepstep.mirror import Mirror, Writer, open_mirror
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import Sender
from keepstep.operations.removing.pruning import policy_for
from keepstep.run import Run
from tests.mirror.counting import PART, CountingObjects
from tests.operations.runs import make_run

Counts = dict[str, dict[str, int]]
KINDS = ("PUT", "LIST", "GET", "DELETE")
FILES = 2
"""Files of a checkpoint that is counted."""
KEPT = 3
"""Checkpoints that stay in the mirror: best:1,latest:2."""
HOURS = 30 * 24


class Prices(NamedTuple):
    """Dollars, as its maker published them on that date; look them up before you believe a sum."""

    name: str
    date: str
    per_1000_put: float
    per_1000_get: float
    gb_month: float
    gb_out: float


PRICES = (
    Prices("S3 Standard, us-east-1", "2025", 0.005, 0.0004, 0.023, 0.09),
    Prices("R2 Standard", "2025", 0.0045, 0.00036, 0.015, 0.0),
)


class Training(NamedTuple):
    """Bytes of weights and of the optimizer, each in files of at most `largest` bytes, and hours between saves."""

    name: str
    weights: float
    optimizer: float
    hours: float
    small_files: int = 10
    largest: float = 5e9


TRAININGS = (
    Training("LoRA on 8B", 0.17e9, 0.34e9, 1 / 6),
    Training("1.5B, all of it", 3.1e9, 12.4e9, 0.5),
    Training("8B, all of it", 16e9, 64e9, 1.0),
)


def counts(tmp_path: Path) -> dict[str, dict[str, int]]:
    """Requests of a process that begins to mirror, of each of its saves, and of a pull on an empty machine."""
    run = make_run(tmp_path / "run", {10: 0.5})
    objects = CountingObjects(open_mirror(tmp_path / "mirror").objects)

    def settle(sender: Sender) -> None:
        """As a training does it: the newest that is missing, another look, and at last what the policy drops."""
        mirror = sender.writer.mirror
        while True:
            here = Run.open(run.path)
            policy = policy_for(here, "latest:1", None, None)
            plan = plan_mirror(here, mirror, mirror.records(), policy)
            if not plan.push:
                sender.tell(here)
                sender.tidy(here, policy)
                return
            sender.send(here, plan.push[0])

    found: dict[str, dict[str, int]] = {}
    settle(Sender(Writer.claim(Mirror(objects), run.id), run.store, run.events))
    objects.reset()
    sender = Sender(Writer.claim(Mirror(objects), run.id), run.store, run.events)
    settle(sender)
    found["beginning"] = dict(objects.requests)
    make_run(tmp_path / "run", {20: 0.4})
    settle(sender)  # a first removal
    make_run(tmp_path / "run", {30: 0.3})
    objects.reset()
    settle(sender)
    found["save"] = dict(objects.requests)
    objects.reset()
    empty = Mirror(objects)
    bring(empty, plan_pull(empty, tmp_path / "there", "latest"))
    found["resume"] = dict(objects.requests)
    return found


def _large(training: Training) -> list[float]:
    """Sizes of the large files: the optimizer is one."""
    shards = max(1, -(-int(training.weights) // int(training.largest)))
    return [training.weights / shards] * shards + [training.optimizer]


def _of_save(training: Training, counted: dict[str, int]) -> dict[str, int]:
    files = training.small_files + sum(-(-int(size) // PART) + 2 for size in _large(training))
    return {**counted, "PUT": counted["PUT"] - FILES + files}


def _of_resume(training: Training, counted: dict[str, int]) -> dict[str, int]:
    ranges = training.small_files + sum(-(-int(size) // PART) for size in _large(training))
    return {**counted, "GET": counted["GET"] - FILES + ranges}


def _cost(requests: dict[str, int], prices: Prices) -> float:
    put = requests.get("PUT", 0) + requests.get("LIST", 0)
    return put / 1000 * prices.per_1000_put + requests.get("GET", 0) / 1000 * prices.per_1000_get


def written(found: Counts) -> str:
    """The page."""
    lines = [
        "# What a mirror costs",
        "",
        "Requests are counted by a test (`tests/mirror/test_requests.py`), which compares its count with what a server is asked, and holds this",
        "page against it; the rest is multiplied. `python -m tests.mirror.costs > docs/mirror-costs.md` writes it anew.",
        "",
        f"Of a checkpoint of {FILES} small files, with a policy that removes an older one at each save:",
        "",
        "| what | requests |",
        "|---|---|",
    ]
    names = {
        "beginning": "a process that begins to mirror, nothing to send",
        "save": "a save, and what it removes",
        "resume": "a resume on an empty machine",
    }
    for what, requests in found.items():
        lines.append(f"| {names[what]} | {', '.join(f'{requests.get(kind, 0)} {kind}' for kind in KINDS)} |")
    lines += [
        "",
        "A file above 16 MiB is one request for each 16 MiB, and two more on its way up. A list of more than 1,000 commits takes one request for",
        "each 1,000; of 10,000 the newest is found in 2 requests, and all are listed in 10, and one for each record that was not read before:",
        "records are kept in the user's cache directory, or beside the run.",
        "",
        f"Checkpoints of whole trainings, of which {KEPT} stay in the mirror, with {TRAININGS[0].small_files} small files each:",
        "",
        "| training | checkpoint | a save every | requests of a save | of a resume |",
        "|---|---|---|---|---|",
    ]
    for one in TRAININGS:
        save, resume = _of_save(one, found["save"]), _of_resume(one, found["resume"])
        lines.append(
            f"| {one.name} | {(one.weights + one.optimizer) / 1e9:.1f} GB | {one.hours * 60:.0f} min "
            f"| {save['PUT']:,} PUT, {save['LIST']} LIST | {resume['GET']:,} GET |"
        )
    lines += [
        "",
        "In dollars; a resume with what leaves the provider's network, and without. Prices are inputs, as their makers listed them then: look",
        "them up. Removing is free with both; some storage classes bill 30 days and more for what is removed sooner: use the standard one.",
        "",
        "| training | prices | a save | a resume, from outside / inside | a month: requests | and bytes |",
        "|---|---|---|---|---|---|",
    ]
    for one in TRAININGS:
        save, resume = _of_save(one, found["save"]), _of_resume(one, found["resume"])
        size = (one.weights + one.optimizer) / 1e9
        for prices in PRICES:
            per_save, per_resume = _cost(save, prices), _cost(resume, prices)
            lines.append(
                f"| {one.name} | {prices.name}, {prices.date} | {per_save:.4f} | {per_resume + size * prices.gb_out:.2f} / "
                f"{per_resume:.4f} | {per_save * HOURS / one.hours:.2f} | {KEPT * size * prices.gb_month:.2f} |"
            )
    lines += [
        "",
        "A bucket that keeps versions, or deleted objects for some days, bills what was removed meanwhile: at a save every hour that is more than",
        "all the rest. `keepstep mirror policy URL` prints the rule that ends it.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(written(counts(Path(place))))
