"""Every command of the command line: where it lives, and one sentence on what it does."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A command: `module:attribute` of its click command, and its sentence in every help."""

    target: str
    sentence: str


COMMANDS = {
    "ls": Entry("keepstep.cli.listing:ls", "List checkpoints: metrics, size, and why each is kept."),
    "watch": Entry("keepstep.cli.watching:watch", "Watch a run: state, curve, checkpoints, disk and last events."),
    "show": Entry("keepstep.cli.showing:show", "Show one checkpoint: files, origin, and what would remove it."),
    "events": Entry(
        "keepstep.cli.history:events", "Print the event log: what was saved, removed and checked, and why."
    ),
    "du": Entry("keepstep.cli.usage:du", "Say where the bytes are, and what would free them."),
    "verify": Entry("keepstep.cli.verifying:verify", "Check every byte against the manifests."),
    "resume": Entry("keepstep.cli.choosing:resume", "Print the path that is safe to resume from."),
    "best": Entry("keepstep.cli.choosing:best", "Print the path of the best checkpoint by the run's metric."),
    "prune": Entry("keepstep.cli.pruning:prune", "Remove what a retention policy drops, after showing it."),
    "thin": Entry("keepstep.cli.thinning:thin", "Leave a checkpoint's weights only, and free the rest."),
    "export": Entry(
        "keepstep.cli.exporting:export", "Write a clean, checked model directory: copied, merged, cast or averaged."
    ),
    "pin": Entry("keepstep.cli.pinning:pin", "Keep a checkpoint whatever the policy says."),
    "unpin": Entry("keepstep.cli.pinning:unpin", "Let the policy decide on a checkpoint again; drops its tags."),
    "tag": Entry("keepstep.cli.pinning:tag", "Give a checkpoint a name, and keep it."),
    "plan": Entry(
        "keepstep.cli.planning:plan", "Say how large checkpoints will be, what they need, and how often to save."
    ),
    "doctor": Entry(
        "keepstep.cli.doctoring:doctor", "Look for what is wrong, or may go wrong, with a training's checkpoints."
    ),
    "simulate": Entry("keepstep.cli.simulating:simulate", "Replay a retention policy over a training, and crash it."),
    "metrics": Entry("keepstep.cli.metrics:metrics", "Print or serve the numbers of runs for Prometheus."),
    "completion": Entry(
        "keepstep.cli.completion:completion", "Print the completion script of a shell, with live references."
    ),
    "ui": Entry("keepstep.cli.ui:ui", "Show runs in a web page on this machine: checkpoints, curves, disk, health."),
    "demo": Entry("keepstep.demo.command:demo", "Fine-tune a tiny model, crash it, and resume it."),
}
