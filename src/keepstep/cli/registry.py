"""Every command of the command line: one sentence on what it does, and where it lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """A command: its sentence in every help, and its module, by default the one of its name in `cli/commands/`; the
    sentences of its `parts`, where it is a group of commands.
    """

    sentence: str
    module: str = ""
    parts: Mapping[str, str] = {}


COMMANDS = {
    "ls": Entry("List checkpoints: metrics, size, and why each is kept."),
    "watch": Entry("Watch a run: state, curve, checkpoints, disk and last events."),
    "status": Entry("Say whether a run trains, how far and how fast, and what a resume would use."),
    "save-now": Entry("Ask a running training to save at its next step's end.", "keepstep.cli.commands.requesting"),
    "stop": Entry("Ask a running training to save and stop.", "keepstep.cli.commands.requesting"),
    "show": Entry("Show one checkpoint: files, origin, and what would remove it."),
    "diff": Entry("Say what differs between two checkpoints, down to each tensor."),
    "events": Entry("Print the event log: what was saved, removed and checked, and why."),
    "du": Entry("Say where the bytes are, and what would free them."),
    "verify": Entry("Check every byte against the manifests."),
    "reseal": Entry("Take over what was changed in a checkpoint on purpose, after showing it."),
    "restore": Entry("Bring back what was set aside, after showing it."),
    "repair": Entry("Rebuild what is lost or damaged of a run's records, after showing it."),
    "resume": Entry("Print the path that is safe to resume from.", "keepstep.cli.commands.choosing"),
    "best": Entry("Print the path of the best checkpoint by the run's metric.", "keepstep.cli.commands.choosing"),
    "adopt": Entry("Make a managed run of checkpoints that others wrote, after showing it."),
    "branch": Entry("Begin a new run from a checkpoint, and leave the old one as it is."),
    "prune": Entry("Remove what a retention policy drops, after showing it."),
    "budget": Entry(
        "Set, show or clear a budget for all runs below a directory.",
        parts={
            "set": "Put a budget in force for all runs below a directory.",
            "show": "Say what each run takes, may take, and would give up.",
            "clear": "Take the budget of a directory away.",
        },
    ),
    "mirror": Entry(
        "Keep a run's second home, in an object store or a directory.",
        parts={
            "sync": "Send what a mirror lacks, and remove there what the policy drops.",
            "status": "Say how far a mirror is behind its run.",
            "ls": "List what a mirror holds.",
            "pull": "Bring a checkpoint of a mirror to this disk, as a run.",
            "verify": "Read a mirror back, and compare every byte.",
            "prune": "Remove in a mirror what a policy drops, after showing it.",
            "policy": "Print the rules that a mirror's bucket needs.",
        },
    ),
    "thin": Entry("Leave a checkpoint's weights only, and free the rest."),
    "export": Entry("Write a clean, checked model directory: copied, merged, cast or averaged."),
    "evaluate": Entry("Run a command for each checkpoint, and record the metrics that it prints."),
    "pin": Entry("Keep a checkpoint whatever the policy says.", "keepstep.cli.commands.pinning"),
    "unpin": Entry("Let the policy decide on a checkpoint again; drops its tags.", "keepstep.cli.commands.pinning"),
    "tag": Entry("Give a checkpoint a name, and keep it.", "keepstep.cli.commands.pinning"),
    "run": Entry("Run a training command: managed, watched, and started again where it dies."),
    "slurm": Entry("Print a job for SLURM that saves in time and goes back into the queue."),
    "k8s": Entry("Print a Job for Kubernetes to which a preemption is no failure."),
    "plan": Entry("Say how large checkpoints will be, what they need, and how often to save."),
    "doctor": Entry("Look for what is wrong, or may go wrong, with a training's checkpoints."),
    "simulate": Entry("Replay a retention policy over a training, and crash it."),
    "metrics": Entry("Print or serve the numbers of runs for Prometheus."),
    "completion": Entry("Print the completion script of a shell, with live references."),
    "ui": Entry("Show runs in a web page on this machine: checkpoints, curves, disk, health."),
    "demo": Entry("Fine-tune a tiny model, crash it, and resume it.", "keepstep.demo.command"),
}
