"""Where checkpoints go: memory, networks, other people's eyes and hands, other trainings."""

from __future__ import annotations

from keepstep.operations.doctor.facts import Facts, Place
from keepstep.operations.doctor.found import Found
from keepstep.operations.doctor.rules.writing import ANYWHERE, FILES, RUN, rule
from keepstep.operations.doctor.settings import NotKnown
from keepstep.stores import SHARED_BY_MACHINES

MEMORY = frozenset({"tmpfs", "ramfs"})


@rule(
    "W401",
    "checkpoints lie in memory",
    why="They are gone when the machine or its container restarts, which is when they are needed; and they take the "
    "memory that the training needs.",
    fix="Use an output_dir on a disk.",
)
def in_memory(facts: Facts) -> Found | None:
    """The output_dir is on a tmpfs, such as /tmp or /dev/shm on many machines."""
    place = _place(facts)
    if place.filesystem not in MEMORY:
        return None
    return Found(f"{place.path} is on {place.filesystem}: memory, not a disk", ("output_dir",))


@rule(
    "I402",
    "checkpoints go over a network",
    why="A save takes as long as the network does, locks and renames depend on the server, and some such file systems "
    "sync nothing.",
    fix="Measure it: keepstep plan ... --probe DIRECTORY. Where it is slow, save to a local disk and copy from there.",
)
def on_a_network(facts: Facts) -> Found | None:
    """The output_dir is on a network file system."""
    place = _place(facts)
    if place.filesystem not in SHARED_BY_MACHINES:
        return None
    return Found(f"{place.path} is on {place.filesystem}", ("output_dir",))


@rule(
    "I403",
    "others can read a token",
    why="training_args.bin holds it in clear text, and every user of this machine can open that: they act on the hub "
    "as you do.",
    fix="Take the token back on the hub, and leave it out of the arguments; or chmod 750 the directory (or 700).",
)
def readable_by_others(facts: Facts) -> Found | None:
    """Every user of the machine can look into the output_dir, and a token is written there, or will be."""
    place = _place(facts)
    if not place.readable or place.writable:
        return None
    if place.secret:
        return Found(f"every user of this machine can read {place.path}, and there {place.secret}", ("output_dir",))
    if facts.attached or not hub_token.check(facts):
        return None
    what = f"every user of this machine can read {place.path}, where the token will be written"
    return Found(what, ("hub_token", "output_dir"))


@rule(
    "W404",
    "others can write to the checkpoints",
    why="training_args.bin and optimizer states are pickles: who can replace one can run code as you when it is "
    "loaded. Digests tell an accident from a whole file, not a forger from you.",
    fix="chmod 755 it (or 700).",
)
def writable_by_others(facts: Facts) -> Found | None:
    """Every user of the machine can write to the output_dir."""
    place = _place(facts)
    if not place.writable:
        return None
    return Found(f"{place.path} can be written by every user of this machine", ("output_dir",))


@rule(
    "E405",
    "two trainings write to one directory",
    why="Both number their checkpoints by step, overwrite and remove each other's, and end with the other's weights. "
    "With keepstep the second one is refused.",
    fix="Give each its own output_dir.",
    sources=FILES,
)
def one_directory_for_two(facts: Facts) -> Found | None:
    """Two configs, of one file or of several that are examined together, name the same output_dir, and the later one
    does not resume what the other left.
    """
    if not (facts.same_directory or facts.same_elsewhere) or facts.resumes:
        return None
    word = "line" if len(facts.same_directory) == 1 else "lines"
    here = [f"{word} {', '.join(map(str, facts.same_directory))}"] if facts.same_directory else []
    others = ", ".join([*here, *facts.same_elsewhere])
    return Found(f"output_dir={facts.settings['output_dir']!r} is that of {others} too", ("output_dir",))


@rule(
    "E406",
    "the hub token is written into every checkpoint",
    why="training_args.bin holds it in clear text, in every checkpoint, and goes wherever they go: to the hub, too.",
    fix="Leave it out, and log in once: hf auth login (or HF_TOKEN in the environment).",
    solved="it is left out of what is saved; a token in a script is still one to keep out of version control",
    sources=ANYWHERE - {RUN},
)
def hub_token(facts: Facts) -> Found | None:
    """`hub_token` is given."""
    for name in ("hub_token", "push_to_hub_token"):
        if facts.settings.values.get(name) and _given(facts, name):
            return Found(f"{name} is given: it will be written into training_args.bin", (name,))
    return None


def _given(facts: Facts, name: str) -> bool:
    try:
        return bool(facts.settings[name])
    except NotKnown:
        return True  # wherever it comes from, it is written


def _place(facts: Facts) -> Place:
    if facts.place is None:
        facts.settings["output_dir"]
        raise NotKnown("the output_dir")
    return facts.place
