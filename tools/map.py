"""Prints the map of the house: its rooms from the top down, what each is, how large, and who may import whom.

A *room* is what stands right below the package, a folder or a single module; the package's own `__init__` and
`__main__` are one room together, its front door. Folders below a room are drawn below it, and are no rooms of their own
in the figures. Sentences are the first lines of docstrings, order and faces are those of the import contract, and the
figures are measured with grimp on all imports, also those in functions and those for type checkers alone.
"""

from __future__ import annotations

import argparse
import ast
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import grimp

ROOT = Path(__file__).parent.parent
BEGIN = "<!-- The map, by `tools/map.py --write`. -->"
END = "<!-- The map ends. -->"
WIDTH = 120
DOOR = ""
"""The front door, as a name below the package."""

Order = tuple[tuple[str, ...], ...]
"""Layers from the top; those of one layer know nothing of each other."""
Arrows = dict[tuple[str, str], tuple[str, str]]
"""Importing and imported child of a package, and one import that shows it: its two files."""


@dataclass(frozen=True, slots=True)
class Room:
    """A folder or a module by itself: its path below the package, its sentence, what of Python is in it."""

    path: str
    sentence: str
    files: int
    lines: int
    inner: tuple[Room, ...] = ()

    @property
    def name(self) -> str:
        """Last part of the path: `/` behind that of a folder, no ending behind that of a module."""
        return self.path.rstrip("/").rpartition("/")[2].removesuffix(".py") + "/" * self.path.endswith("/")

    @property
    def module(self) -> str:
        """The dotted name below the package."""
        return self.path.rstrip("/").removesuffix(".py").replace("/", ".")


@dataclass(frozen=True, slots=True)
class Contract:
    """What pyproject.toml says of imports; all names are dotted ones below the package."""

    package: str
    orders: Mapping[str, Order]
    """By the container of the layers; DOOR is the package."""
    faces: frozenset[str]
    bans: tuple[tuple[str, str, str], ...]
    """Name of a contract, who is forbidden to import, and what."""
    acyclic: bool

    @classmethod
    def read(cls, file: Path) -> Contract:
        """The contract in a pyproject.toml."""
        settings = tomllib.loads(file.read_text(encoding="utf-8"))["tool"]["importlinter"]
        package: str = settings["root_package"]

        def below(name: str) -> str:
            return DOOR if name == package else name.removeprefix(f"{package}.")

        def of(kind: str) -> list[dict[str, Any]]:
            return [contract for contract in settings["contracts"] if contract["type"] == kind]

        def order(layers: Iterable[str]) -> Order:
            return tuple(tuple(below(name.strip()) for name in layer.split("|")) for layer in layers)

        def listed(names: Iterable[str]) -> str:
            return ", ".join(map(below, names))

        return cls(
            package,
            {
                below(inside): order(one["layers"])
                for one in of("layers")
                for inside in one.get("containers", [package])
            },
            frozenset(below(name).removesuffix(".*") for one in of("protected") for name in one["protected_modules"]),
            tuple(
                (one["name"], listed(one["source_modules"]), listed(one["forbidden_modules"]))
                for one in of("forbidden")
            ),
            bool(of("acyclic_siblings")),
        )


class House:
    """A repository with a package in `src/` and an import contract in its pyproject.toml."""

    def __init__(self, root: Path) -> None:
        self.contract = Contract.read(root / "pyproject.toml")
        self.home = root / "src" / self.contract.package

    @cached_property
    def graph(self) -> grimp.ImportGraph:
        """Every import of the package's files from each other."""
        sys.path.insert(0, str(self.home.parent))
        try:
            return grimp.build_graph(self.contract.package, cache_dir=None)
        finally:
            sys.path.remove(str(self.home.parent))

    @cached_property
    def door(self) -> Room:
        """The front door."""
        return self._room(self.home, self.home.glob("__*__.py"))

    @cached_property
    def rooms(self) -> tuple[Room, ...]:
        """All others: in the contract's order, then what it doesn't name."""
        modules = (self._room(path, [path]) for path in self.home.glob("*.py") if not path.stem.startswith("__"))
        return self._in_order(DOOR, [*self._folders(self.home), *modules])

    def _in_order(self, container: str, rooms: Iterable[Room]) -> tuple[Room, ...]:
        names = _names(self.contract.orders.get(container, ()))
        rank = {f"{container}.{name}".removeprefix("."): place for place, name in enumerate(names)}
        return tuple(sorted(rooms, key=lambda room: (rank.get(room.module, len(rank)), room.module)))

    def _folders(self, home: Path) -> Iterator[Room]:
        return (self._room(path.parent, path.parent.rglob("*.py")) for path in home.glob("*/__init__.py"))

    def _room(self, path: Path, files: Iterable[Path]) -> Room:
        folder = path.is_dir()
        own = (path / "__init__.py" if folder else path).read_text(encoding="utf-8")
        sentence = (ast.get_docstring(ast.parse(own)) or "").partition("\n")[0]
        texts = [file.read_text(encoding="utf-8") for file in files]
        name = path.relative_to(self.home).as_posix()
        inner = self._in_order(name.replace("/", "."), self._folders(path)) if path != self.home else ()
        return Room(name + "/" * folder, sentence, len(texts), sum(text.count("\n") for text in texts), inner)


def arrows(graph: grimp.ImportGraph, container: str) -> Arrows:
    """Which child of a package imports which other; modules outside of it don't count.

    The package's own `__init__` and `__main__` are its child DOOR.
    """
    inside = {module: _child(module, container) for module in sorted(graph.modules) if _is_in(module, container)}
    return {
        (child, inside[other]): (module, other)
        for module, child in inside.items()
        for other in sorted(graph.find_modules_directly_imported_by(module))
        if inside.get(other, child) != child
    }


def upward(found: Arrows, order: Order) -> Arrows:
    """The arrows to a child that stands higher, or beside the importing one; children without a place are passed over.

    The front door stands below the topmost layer, whose rooms use the package as its users do, and above all others.
    """
    rank: dict[str, float] = {name: place for place, layer in enumerate(order) for name in layer}
    rank[DOOR] = 0.5
    return {
        arrow: files
        for arrow, files in found.items()
        if all(end in rank for end in arrow) and rank[arrow[1]] <= rank[arrow[0]]
    }


def circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """Files that import each other, directly or by way of others: each largest set of such, sorted."""
    found = set[frozenset[str]]()
    for module in graph.modules:
        back = graph.find_upstream_modules(module) & graph.find_downstream_modules(module)
        found.add(frozenset(back | {module}))
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def all_upward(house: House) -> Arrows:
    """The arrows upward in the whole house, and inside each room that has an order of its own."""
    found: Arrows = {}
    for container, order in house.contract.orders.items():
        package = f"{house.contract.package}.{container}".removesuffix(".")
        # Inside a room the folder's own `__init__` has no place in the order: it is the face, and imports from below.
        own = {a: files for a, files in arrows(house.graph, package).items() if not container or DOOR not in a}
        found |= upward(own, order)
    return found


def figures(house: House) -> str:
    """The figures of the import graph, in one line."""
    between, up, round_ = arrows(house.graph, house.contract.package), all_upward(house), circles(house.graph)
    return (
        f"{len(house.rooms) + 1} rooms (the front door is one), {len(between)} arrows between them, {len(up)} upward; "
        f"{len(house.graph.modules)} files, {len(round_)} circles"
    )


def problems(house: House) -> list[str]:
    """What is wrong with the house, a sentence each."""
    named, there = set(_names(house.contract.orders[DOOR])), {room.module for room in house.rooms}
    return [
        *(f"{room.path} has no sentence" for room in _all(house) if not room.sentence.endswith(".")),
        *(f"{name} is not in the contract" for name in sorted(there - named)),
        *(f"the contract names {name}, which is not there" for name in sorted(named - there)),
        *(f"an import runs upward: {importer} imports {other}" for importer, other in all_upward(house).values()),
        *(f"a circle: {', '.join(circle)}" for circle in circles(house.graph)),
    ]


def draw(house: House, *, sizes: bool) -> str:
    """The map as text; sizes change with every commit, and so are left out of what is written into a page."""
    number = {layer[0]: place for place, layer in enumerate(house.contract.orders[DOOR], 1)}
    rows = [(house.home.name, house.door)]
    for room in house.rooms:
        rows += _rows(house, room, f"{number.get(room.module, ''):>2} ", 0)
    width = max(len(label) for label, _ in rows) + 2
    text = [f"{'':<{width}}files  lines"] if sizes else []
    for label, room in rows:
        size = f"{room.files:>5} {room.lines:>6,}  " if sizes else ""
        text.append(_wrapped(f"{label:<{width}}{size}", room.sentence))
    return "\n".join([*text, "", *_legend(house.contract)]) + "\n"


def _rows(house: House, room: Room, head: str, depth: int) -> Iterator[tuple[str, Room]]:
    face = "*" if room.module in house.contract.faces else " "
    yield f"{head}{face} {'  ' * depth}{room.name}", room
    for inner in room.inner:
        yield from _rows(house, inner, "   ", depth + 1)


def _legend(contract: Contract) -> Iterator[str]:
    yield _wrapped(
        "",
        "Imports go down only: a room may import from those of a higher number. Rooms of one number know nothing of "
        f"each other. From {contract.package} itself only those of number 1 import, as its users do.",
    )
    if contract.faces:
        yield _wrapped("", "* has a face: others import what its __init__.py hands on, and nothing below it.")
    if contract.acyclic:
        yield "No circles, imports for type checkers included."
    for container, order in contract.orders.items():
        if container:
            layers = "; ".join(map(", ".join, order))
            yield _wrapped("", f"Inside {container.replace('.', '/')}/, from the top: {layers}.")
    for name, who, what in contract.bans:
        yield _wrapped("", f"{name}: no {what} in {who}.")


def with_map(page: str, house: House) -> str:
    """The page with the map of today between its markers. Raises ValueError where it lacks them."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks its markers: {BEGIN} and {END}")
    return f"{head}{BEGIN}\n```text\n{draw(house, sizes=False)}```\n{END}{tail}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the map, write it into CONTRIBUTING.md, or say whether that one is up to date and the house in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the map into CONTRIBUTING.md")
    parser.add_argument("--check", action="store_true", help="exit 1 when it is stale there, or an import runs wrong")
    parser.add_argument("--root", type=Path, default=ROOT, help="another repository than this one")
    given = parser.parse_args(arguments)
    house, page = House(given.root), given.root / "CONTRIBUTING.md"
    if not given.write and not given.check:
        print(f"{draw(house, sizes=True)}\n{figures(house)}.")
        return 0
    before = page.read_text(encoding="utf-8")
    after = with_map(before, house)
    if given.write:
        page.write_text(after, encoding="utf-8")
        return 0
    wrong = problems(house)
    if after != before:
        wrong.append(f"the map in {page.name} is out of date: python tools/map.py --write")
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    return int(bool(wrong))


def _all(house: House) -> Iterator[Room]:
    """The rooms and the folders in them."""
    queue = [house.door, *house.rooms]
    for room in queue:
        yield room
        queue += room.inner


def _names(order: Order) -> list[str]:
    return [name for layer in order for name in layer]


def _is_in(module: str, container: str) -> bool:
    return module == container or module.startswith(f"{container}.")


def _child(module: str, container: str) -> str:
    child = module.removeprefix(container).removeprefix(".").partition(".")[0]
    return DOOR if child == "__main__" else child


def _wrapped(head: str, sentence: str) -> str:
    return textwrap.fill(
        sentence, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )


if __name__ == "__main__":
    sys.exit(main())
