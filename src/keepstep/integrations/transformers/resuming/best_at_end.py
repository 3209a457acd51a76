"""What `load_best_model_at_end` loads: the best that holds and comes back; or an error, once all is over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from keepstep.checkpointer import Checkpointer
from keepstep.engine import HeldFiles
from keepstep.errors import BestNotLoaded, ResumeRefused
from keepstep.integrations.transformers.resuming.comparing import Comparison
from keepstep.integrations.transformers.resuming.loading import load_weights
from keepstep.integrations.transformers.resuming.serving import serving
from keepstep.integrations.transformers.resuming.zero_weights import load_alone, weights_alone
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.integrations.transformers.setup.sharding import reads_as_written
from keepstep.model import Checkpoint
from keepstep.snapshot.ranks import Ranks

MOST_TRIED = 3
"""Checkpoints: where so many don't come back, it is the model that does not fit, and further ones would not either."""


class BestAtEnd:
    """Loads the best at the end of one trainer's training; what can't be loaded is told by `end_well`."""

    def __init__(
        self,
        trainer: Any,
        checkpointer: Checkpointer,
        ranks: Ranks,
        *,
        comparison: Comparison,
        held: HeldFiles,
        show: Callable[[str], None],
        pass_over: Callable[[Checkpoint], None],
    ) -> None:
        """`show` lets the trainer's state name the path that is loaded, `pass_over` hears of each checkpoint that did
        not come back.
        """
        self._trainer = trainer
        self._checkpointer = checkpointer
        self._ranks = ranks
        self._comparison = comparison
        self._held = held
        self._show, self._pass_over = show, pass_over
        self.start()

    def start(self) -> None:
        """Begin a training."""
        self._failed: list[tuple[Checkpoint, str]] = []
        self._loaded = True
        self._is_back = False

    def load(
        self,
        next_best: Callable[[], Checkpoint | None],
        stock: Callable[[], None],
        from_checkpoint: Callable[[str], None],
    ) -> None:
        """Load the `next_best` that comes back as it was saved; where none does, the last weights, if these do.

        `stock` is the trainer's own loader of what its state names as the best, `from_checkpoint` that of a path.
        """
        while len(self._failed) < MOST_TRIED and (best := self._ranks.agree(next_best)) is not None:
            self._show(str(best.path))
            self._trainer.state.best_global_step = best.step
            load = stock
            if weights_alone(self._trainer, Path(str(best.path))):
                load = partial(
                    load_alone, self._trainer, Path(str(best.path)), partial(from_checkpoint, str(best.path))
                )
            why = self._load(best, load, best=True)
            if not why:
                self._loaded = True
                return
            self._loaded = False
            self._failed.append((best, why))
            self._note(best, why)
        if self._failed:
            self._go_back(from_checkpoint)

    def end_well(self) -> None:
        """Once all is saved and said: raises BestNotLoaded where no best could be loaded."""
        if self._loaded:
            return
        (best, why), *others = self._failed
        more = f", nor did any of the next ({', '.join(one.name for one, _ in others)})" if others else ""
        now = "the weights of the last step are in memory" if self._is_back else "what is in memory is not to be used"
        raise BestNotLoaded(
            f"the training is over and saved, but the best of it, {best.path}, did not come back into the model: "
            f"{why}{more}; {now}",
            hint="Its files hold: load them by from_pretrained, or by a _load_best_model of the trainer's own class.",
        )

    def _load(self, checkpoint: Checkpoint, stock: Callable[[], None], *, best: bool) -> str:
        """Load a checkpoint; returns what did not come back, in words, the same on every rank."""
        directory = Path(str(checkpoint.path))
        try:
            with serving(self._held), reads_as_written(self._trainer, directory):
                lacking = load_weights(self._trainer, directory, stock, best=best)
            why = self._comparison.check_best(directory, lacking)
        except ResumeRefused as error:
            why = error.message
        finally:
            self._held.clear()
        found = self._ranks.together(lambda: why)
        return self._ranks.agree(lambda: next(filter(None, found), ""))

    def _note(self, checkpoint: Checkpoint, why: str) -> None:
        text = "%s was loaded as the best, and did not come back: %s. The next best is tried instead"
        logger.warning(text, checkpoint.name, why)
        self._pass_over(checkpoint)
        if self._ranks.leads:
            events = self._checkpointer.run.events
            events.append("unloaded", step=checkpoint.step, generation=checkpoint.generation, why=why)

    def _go_back(self, from_checkpoint: Callable[[str], None]) -> None:
        last = self._ranks.agree(lambda: self._checkpointer.run.latest)
        if last is not None and last.step == self._trainer.state.global_step:
            self._is_back = not self._load(last, partial(from_checkpoint, str(last.path)), best=False)
        where = "those of the last step are in memory again" if self._is_back else "what is in memory is not to be used"
        logger.error("no best could be loaded: %s", where)
