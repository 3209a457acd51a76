"""The imprints of one trainer's saves: what is to come back is known by its digests."""

from __future__ import annotations

from typing import Any

from keepstep.engine import Impression, Imprint
from keepstep.integrations.transformers.resuming.serving import loads_whole_files
from keepstep.integrations.transformers.resuming.shards import layout_of, local_state
from keepstep.integrations.transformers.resuming.trained import parts_of
from keepstep.integrations.transformers.resuming.watched import optimizer_state, optional_in


def impression_of(trainer: Any) -> Impression | None:
    """An impression of the present state; None where other processes hold parts of it."""
    if not loads_whole_files(trainer):
        return None
    parts = parts_of(trainer.model)
    bare = trainer.args.save_only_model or trainer.optimizer is None
    optimizer = {} if bare else optimizer_state(trainer, parts.state)
    return Impression(parts.state, optimizer, optional=optional_in(trainer, parts))


def local_impression(trainer: Any) -> Impression:
    """An impression of what this process holds of the present state, where others hold parts of it."""
    model, optimizer = local_state(trainer)
    return Impression(model, {} if trainer.optimizer is None else optimizer)


def local_imprint(trainer: Any) -> Imprint:
    """The imprint of what this process holds of the present state: taken at once, in memory that nobody changes."""
    impression = local_impression(trainer)
    impression.take_all(lambda _: True)
    return impression.imprint()._replace(layout=layout_of(trainer))
