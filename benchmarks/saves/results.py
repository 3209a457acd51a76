"""The JSON file of a campaign: what was measured so far, written anew after every process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.saves.spec import Leg

FILE = "results.json"
FORMAT = 1


class Results:
    """Records by leg, kind ("course", "limits", "resume"), method and round."""

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self.path = path
        self.machine = machine
        self.legs: dict[str, Leg] = {}
        self.records: list[dict[str, Any]] = []

    @classmethod
    def read(cls, path: Path) -> Results:
        """What a file holds. Raises FileNotFoundError, ValueError."""
        given = json.loads(path.read_text(encoding="utf-8"))
        if given.get("format") != FORMAT:
            raise ValueError(f"{path} is of format {given.get('format')}, not {FORMAT}")
        results = cls(path, given["machine"])
        results.legs = {leg.name: leg for leg in map(Leg.from_json, given["legs"])}
        results.records = given["records"]
        return results

    def begin(self, leg: Leg) -> None:
        """Add a leg. Raises ValueError when one of that name was measured with other settings."""
        before = self.legs.get(leg.name)
        same = before is None or (before.saves, before.quiet) == (leg.saves, leg.quiet)
        if not same:
            raise ValueError(f"{self.path} has '{leg.name}' with other settings: take another --output, or --anew")
        if before is not None:
            methods = tuple(dict.fromkeys([*before.methods, *leg.methods]))
            leg = Leg.from_json({**leg.to_json(), "methods": methods, "rounds": max(before.rounds, leg.rounds)})
        self.legs[leg.name] = leg

    def add(self, leg: Leg, kind: str, method: str, turn: int, record: dict[str, Any]) -> None:
        """Keep a record, on disk too."""
        self.records.append({"leg": leg.name, "kind": kind, "method": method, "round": turn, **record})
        self.write()

    def has(self, leg: Leg, kind: str, method: str, turn: int) -> bool:
        """Whether that was measured already."""
        return any(r["method"] == method and r["round"] == turn for r in self.of(leg, kind))

    def of(self, leg: Leg, kind: str, method: str | None = None) -> Iterator[dict[str, Any]]:
        """Records of one kind, of one method or of all."""
        for record in self.records:
            if record["leg"] == leg.name and record["kind"] == kind and method in (None, record["method"]):
                yield record

    def write(self) -> None:
        """Replace the file."""
        legs = [leg.to_json() for leg in self.legs.values()]
        content = {"format": FORMAT, "machine": self.machine, "legs": legs, "records": self.records}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(content) + "\n", encoding="utf-8")
        os.replace(new, self.path)
