"""Names of keepstep's own files below a run directory and a tree of runs, and how its JSON files may fail."""

META = ".keepstep"
RUN = f"{META}/run.json"
LOCK = f"{META}/lock"
OWNER = f"{META}/owner.json"
STAGING = f"{META}/staging"
TRASH = f"{META}/trash"
REPLACED = f"{META}/replaced"
QUARANTINE = f"{META}/quarantine"
TIMELINES = f"{META}/timelines"
PREVIOUS = f"{META}/previous"
ADOPTING = f"{META}/adopting.json"
REWIND = f"{META}/rewind.json"
RETURN = f"{META}/return.json"
SWAP = f"{META}/swap.json"
READERS = f"{META}/readers"
PINS = f"{META}/pins.json"
PINS_LOCK = f"{META}/pins.lock"
LINKS = f"{META}/links.json"
EVENTS = f"{META}/events.jsonl"
METRICS = f"{META}/metrics.jsonl"

TREE = ".keepstep-tree"
TREE_BUDGET = f"{TREE}/budget.json"
TREE_LOCK = f"{TREE}/lock"
TREE_CLAIMS = f"{TREE}/claims"
TREE_ASKS = f"{TREE}/asks"

NOT_JSON = (ValueError, RecursionError)
"""What a JSON decoder raises for bytes that are none: bad syntax or shape, bad UTF-8, or too deep."""

SMALL_FILE_LIMIT = 16 * 2**20
"""Bytes above which one of keepstep's own small JSON files is refused unread."""
