"""Commits, removals and failures of a run in a tracker: TensorBoard or trackio.

keepstep.attach(trainer, **tensorboard_hooks("runs/sft/logs"))
keepstep.attach(trainer, **trackio_hooks("my-project", "sft"))
"""

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Hooks = dict[str, Callable[[Event], object]]


def numbers(event: Event) -> dict[str, float]:
    """What of a commit belongs into curves: its metric, its size and what it cost."""
    found = {
        "checkpoint/size_gb": event["size_bytes"] / 1e9,
        "checkpoint/blocked_s": event["blocked_seconds"],
        "checkpoint/durable_s": event["durable_seconds"],
    }
    if isinstance(event["value"], float):
        found[f"checkpoint/{event['metric']}"] = event["value"]
    return found


def tensorboard_hooks(directory: str) -> Hooks:
    """Curves of every commit, and a text for each checkpoint that is kept, goes, or could not be written."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(directory)

    def on_commit(event: Event) -> None:
        for name, value in numbers(event).items():
            writer.add_scalar(name, value, event["step"])
        writer.add_text("checkpoint/kept", "; ".join(event["reasons"]), event["step"])
        writer.flush()

    def on_remove(event: Event) -> None:
        writer.add_text(f"checkpoint/{event['event']}", event.get("reason", ""), event["step"])

    def on_failure(event: Event) -> None:
        writer.add_text(f"checkpoint/{event['event']}", event["error"], event["step"])
        writer.flush()

    return {"on_commit": on_commit, "on_remove": on_remove, "on_failure": on_failure}


def trackio_hooks(project: str, name: str) -> Hooks:
    """The same numbers in a trackio project."""
    import trackio

    run = trackio.init(project=project, name=name, embed=False)

    def on_commit(event: Event) -> None:
        run.log(numbers(event), step=event["step"])

    def on_failure(event: Event) -> None:
        run.alert("a save failed" if event["event"] == "failed" else "a save was refused", event["error"])

    return {"on_commit": on_commit, "on_failure": on_failure}
