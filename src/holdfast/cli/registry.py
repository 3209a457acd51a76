"""Every command of the command line: where it lives, and one sentence on what it does."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A command: `module:attribute` of its click command, and its sentence in every help."""

    target: str
    sentence: str


COMMANDS = {
    "ls": Entry("holdfast.cli.listing:ls", "List checkpoints: metrics, size, and why each is kept."),
    "watch": Entry("holdfast.cli.watching:watch", "Watch a run: state, curve, checkpoints, disk and last events."),
    "show": Entry("holdfast.cli.showing:show", "Show one checkpoint: files, origin, and what would remove it."),
    "events": Entry(
        "holdfast.cli.history:events", "Print the event log: what was saved, removed and checked, and why."
    ),
    "du": Entry("holdfast.cli.usage:du", "Say where the bytes are, and what would free them."),
    "verify": Entry("holdfast.cli.verifying:verify", "Check every byte against the manifests."),
    "resume": Entry("holdfast.cli.choosing:resume", "Print the path that is safe to resume from."),
    "best": Entry("holdfast.cli.choosing:best", "Print the path of the best checkpoint by the run's metric."),
    "prune": Entry("holdfast.cli.pruning:prune", "Remove what a retention policy drops, after showing it."),
    "thin": Entry("holdfast.cli.thinning:thin", "Leave a checkpoint's weights only, and free the rest."),
    "export": Entry(
        "holdfast.cli.exporting:export", "Write a clean, checked model directory: copied, merged, cast or averaged."
    ),
    "pin": Entry("holdfast.cli.pinning:pin", "Keep a checkpoint whatever the policy says."),
    "unpin": Entry("holdfast.cli.pinning:unpin", "Let the policy decide on a checkpoint again; drops its tags."),
    "tag": Entry("holdfast.cli.pinning:tag", "Give a checkpoint a name, and keep it."),
    "plan": Entry(
        "holdfast.cli.planning:plan", "Say how large checkpoints will be, what they need, and how often to save."
    ),
    "doctor": Entry(
        "holdfast.cli.doctoring:doctor", "Look for what is wrong, or may go wrong, with a training's checkpoints."
    ),
    "simulate": Entry("holdfast.cli.simulating:simulate", "Replay a retention policy over a training, and crash it."),
    "metrics": Entry("holdfast.cli.metrics:metrics", "Print or serve the numbers of runs for Prometheus."),
    "completion": Entry(
        "holdfast.cli.completion:completion", "Print the completion script of a shell, with live references."
    ),
    "ui": Entry("holdfast.cli.ui:ui", "Show runs in a web page on this machine: checkpoints, curves, disk, health."),
    "demo": Entry("holdfast.demo.command:demo", "Fine-tune a tiny model, crash it, and resume it."),
}
