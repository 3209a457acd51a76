"""Where the training loop stands: its epochs, its running loss, and what a save records of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from keepstep.integrations.transformers.resuming import attributes, buffers, callback_states
from keepstep.integrations.transformers.resuming.data_order import sampler_of
from keepstep.integrations.transformers.resuming.epochs import Epochs, is_whole
from keepstep.integrations.transformers.resuming.fetching import workers_are_there
from keepstep.integrations.transformers.resuming.in_force import in_force
from keepstep.integrations.transformers.resuming.loop_state import LoopState, Position, state_name
from keepstep.integrations.transformers.resuming.moving import Moving, Numbers
from keepstep.integrations.transformers.resuming.optimizer_order import order_of
from keepstep.integrations.transformers.resuming.override import Override
from keepstep.integrations.transformers.resuming.serving import loads_whole_files
from keepstep.integrations.transformers.resuming.streams import step_of_pass
from keepstep.integrations.transformers.setup.messages import listed


class Loop:
    """The loop of one trainer; `start` begins it anew for each training.

    `restored` is the state that a resume goes on from, None where there is none; `ended` is True when a resumed
    training turns out to be over: no further step may run. `stops_here` is True when the training is to end with the
    present step, and be resumed; `lacks` says what a save has not got of other processes. `doubt` is called with what
    is seen after a resume and makes it inexact.
    """

    def __init__(self, trainer: Any, override: Override) -> None:
        self._trainer = trainer
        self._override = override
        self.doubt: Callable[[str], None] | None = None
        self.start()

    def start(self) -> None:
        """Begin a training, at its beginning."""
        self.restored: LoopState | None = None
        self._checkpoint: Path | None = None
        self._rank = 0
        self.moving = Moving(self._trainer)
        self._numbers: Numbers = {}
        self._seen_beside = -1
        self.ended = False
        self.stops_here = False
        self.noted: LoopState | None = None
        self.lacks = ""
        self.epochs = Epochs(self._trainer, resuming=False)
        self._position: Position = "step_end"
        self._tr_loss: torch.Tensor | None = None
        self._loss_to_add = 0.0
        self._grad_norm: torch.Tensor | float | None = None
        self._learning_rate: float | None = None

    # -- while it runs ---------------------------------------------------------------------------------

    def epoch_begins(self) -> None:
        """Called before an epoch's data order is drawn."""
        self.epochs.begins(self.restored, ended=self.ended)
        self._override.epoch_begins(sampler_of(self._trainer.callback_handler.train_dataloader))

    def step_ends(self) -> None:
        """Called when an optimizer step is done, before it is logged, evaluated or saved."""
        self._position = "step_end"

    def epoch_ends(self) -> None:
        """Called when an epoch is done, before it is logged, evaluated or saved."""
        self._position = "epoch_end"

    def note_step(self, tr_loss: torch.Tensor, grad_norm: Any, learning_rate: float | None) -> None:
        """What the trainer hands to its logging: needed when a save falls on the last step of an epoch."""
        self._tr_loss = tr_loss
        # It stays a tensor until a save asks for the number: reading it at every step would make a GPU wait.
        self._grad_norm = grad_norm
        self._learning_rate = learning_rate

    @property
    def is_last_step(self) -> bool:
        """True when no step follows."""
        state = self._trainer.state
        return (
            self.stops_here or bool(self._trainer.control.should_training_stop) or state.global_step >= state.max_steps
        )

    @property
    def owes_loss(self) -> bool:
        """True while the restored running loss waits for the first loss that can bring it along."""
        return bool(self._loss_to_add)

    @property
    def optimizer_order(self) -> list[list[str]] | None:
        """The names that the restored optimizer's parameters had, by group and index; None where they are not known."""
        return None if self.restored is None else self.restored.optimizer_order

    def divide_steps(self) -> None:
        """Before transformers counts the epochs that the restored step makes: of a stream, its passes."""
        place = None if self.restored is None else self.restored.stream
        self._trainer.state.global_step = step_of_pass(self._trainer, place)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Around an evaluation: a later one finds the persistent workers of the first."""
        logged = self._trainer.state.log_history
        evaluated = self.restored is not None and any(name.startswith("eval_") for entry in logged for name in entry)
        with workers_are_there() if evaluated else nullcontext():
            yield

    def take_loss(self) -> float:
        """The restored running loss, once."""
        value, self._loss_to_add = self._loss_to_add, 0.0
        return value

    def capture(self) -> LoopState:
        """What a save adds to the stock files; what was `noted` before, where the loop has gone on since."""
        if self.noted is not None:
            return self.noted
        trainer, own = self._trainer, self.epochs.own
        kept, left_out = attributes.capture(trainer)
        callbacks, lost = callback_states.capture(trainer)
        buffer, unkept = buffers.capture(trainer)
        if self._seen_beside != trainer.state.global_step:
            self.beside()
        own.refresh()
        sampler = sampler_of(trainer.callback_handler.train_dataloader)
        return LoopState(
            position=self._position,
            tr_loss=self._tr_loss.item() if self._tr_loss is not None else 0.0,
            total_loss=float(trainer._total_loss_scalar),
            last_logged_step=int(trainer._globalstep_last_logged),
            initial_step=int(getattr(trainer, "_initial_global_step", 0)),
            grad_norm=self._grad_norm.item() if isinstance(self._grad_norm, torch.Tensor) else self._grad_norm,
            learning_rate=self._learning_rate,
            epoch_start=self.epochs.start,
            order_start=self.epochs.order_to_resume(),
            sampler_seed=getattr(sampler, "initial_seed", None),
            stopped=not self.stops_here
            and bool(trainer.control.should_training_stop)
            and trainer.state.global_step < trainer.state.max_steps,
            model_trains=bool(trainer.model.training),
            optimizer_order=order_of(trainer),
            loading_draws=self.epochs.loading_draws or (self.restored is not None and self.restored.loading_draws),
            attributes=kept,
            left_out=left_out,
            mid_epoch=not is_whole(trainer.state.epoch),
            ahead=self.epochs.ahead,
            own=None if own.failed else own.states(),
            own_at_epoch_start=self.epochs.own_start,
            own_without_state=own.without_state,
            callbacks=callbacks,
            numbers=self._numbers,
            buffered=buffer is not None,
            buffers=buffer,
            in_force=in_force(trainer),
            place=self._override.samples.here(),
            stream=self.epochs.place,
            workers=self.epochs.workers.at_save(in_mid_epoch=not is_whole(trainer.state.epoch)),
            inexact=[*lost, *filter(None, [unkept, self._not_kept_beside(), self.epochs.unfinished, self.lacks])],
        )

    def _not_kept_beside(self) -> str:
        if not self.moving.moved or loads_whole_files(self._trainer):
            return ""
        return f"what moves beside the model is kept in no file, and begins anew: {listed(self.moving.moved)}"

    # -- when it is resumed ------------------------------------------------------------------------------

    def read(self, directory: Path, rank: int) -> None:
        """Take the state that a checkpoint holds of a rank's loop. Raises CheckpointCorrupt."""
        self.restored, self._checkpoint, self._rank = LoopState.read(directory, rank), directory, rank

    def moved_to(self, directory: Path) -> None:
        """From here on what is read of the checkpoint lies there."""
        self._checkpoint = directory

    def begin(self) -> list[str]:
        """Note what moves beside the model, once the trainer has all; of a resume, put back what was there.

        Returns the paths of what was there and has no place now.
        """
        numbers = self.restored.numbers if self.restored is not None else {}
        return self.moving.begin(self._checkpoint, numbers)

    def beside(self) -> dict[str, torch.Tensor]:
        """What has moved beside the model, by its names in the extra file."""
        tensors, self._numbers = self.moving.capture()
        self._seen_beside = self._trainer.state.global_step
        return tensors

    def resume(self, loader: Any) -> None:
        """Put back what stock resuming leaves out, once the trainer has its data loader."""
        self.epochs = Epochs(self._trainer, resuming=True, checkpoint=self._checkpoint, doubt=self.doubt)
        if self.restored is not None:
            self._restore(self.restored, loader)

    def _restore(self, loop: LoopState, loader: Any) -> None:
        trainer = self._trainer
        trainer.state.global_step = int(trainer.state.global_step)
        trainer._total_loss_scalar = loop.total_loss
        trainer._globalstep_last_logged = loop.last_logged_step
        trainer._initial_global_step = loop.initial_step
        if hasattr(trainer, "_tr_loss"):
            trainer._tr_loss = torch.tensor(loop.tr_loss, device=trainer.args.device)
            self._tr_loss = trainer._tr_loss
        else:
            self._loss_to_add = loop.tr_loss
        trainer.model.train(loop.model_trains)
        attributes.restore(trainer, loop.attributes)
        self.epochs.own.restore(loop.own)
        if loop.buffered and self._checkpoint is not None:
            path = self._checkpoint / state_name(self._rank, ".pt")
            if path.is_file():
                buffers.restore(trainer, path)
        sampler = sampler_of(loader)
        if sampler is not None and loop.sampler_seed is not None:
            sampler.initial_seed = loop.sampler_seed

    def replay_epoch_end(self, checkpoint: Path, *, over: bool) -> None:
        """Where the save came at an epoch's last step: what follows it in an uninterrupted training follows now."""
        loop, trainer = self.restored, self._trainer
        if loop is None or loop.position != "step_end" or not (over or is_whole(trainer.state.epoch)):
            return
        trainer._load_rng_state(str(checkpoint))
        trainer.control = trainer.callback_handler.on_epoch_end(trainer.args, trainer.state, trainer.control)
        tr_loss = getattr(trainer, "_tr_loss", None)
        if tr_loss is None:
            tr_loss = torch.tensor(self._loss_to_add, device=trainer.args.device)
        trainer._maybe_log_save_evaluate(
            tr_loss, loop.grad_norm, trainer.model, None, trainer.state.epoch, None, time.time(),
            learning_rate=loop.learning_rate,
        )  # fmt: skip
        self._loss_to_add = 0.0 if hasattr(trainer, "_tr_loss") else tr_loss.item()
        self.epochs.end_replayed()

    def end(self, checkpoint: Path) -> None:
        """The training was over at the checkpoint: no step runs, and its sums are those of the end."""
        self.ended = True
        trainer = self._trainer
        trainer.control.should_training_stop = True
        trainer._load_rng_state(str(checkpoint))
        if not hasattr(trainer, "_tr_loss"):
            trainer._total_loss_scalar += self.take_loss()
