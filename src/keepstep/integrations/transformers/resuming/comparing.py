"""After loading: is what is in memory what was saved? Compared by digests, put right where it is not, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from keepstep.engine import Imprint, mark_of
from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.resuming.found import NOTHING, Found, compared
from keepstep.integrations.transformers.resuming.in_force import in_force
from keepstep.integrations.transformers.resuming.loading import mend
from keepstep.integrations.transformers.resuming.moments import loads_of, uncast
from keepstep.integrations.transformers.resuming.serving import loads_whole_files
from keepstep.integrations.transformers.resuming.trained import trained
from keepstep.integrations.transformers.resuming.unsaved import Unsaved, text_of
from keepstep.integrations.transformers.resuming.watched import (
    bare_optimizer,
    model_state,
    named_parameters_of,
    optimizer_state,
    tensors_of_state,
)
from keepstep.integrations.transformers.setup.messages import listed, logger
from keepstep.integrations.transformers.setup.own_code import LOADS, SAVES, own
from keepstep.run import Exactness, Reason

OPTIMIZER_NAME = "optimizer.pt"


class Comparison:
    """Compares what one trainer loads with what the checkpoint's imprint says was saved.

    `reasons` says what is not as it was, and need not be; `sentence` what was compared.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.start(None)

    def start(self, directory: Path | None) -> None:
        """Begin a training that is resumed from a checkpoint, or from none."""
        self.given = in_force(self._trainer)
        """What the optimizer had before it loaded."""
        self.reasons: list[Reason] = []
        self._model = self._optimizer = NOTHING
        self._unsaved: Unsaved | None = None
        self._rewritten: list[str] = []
        """Tensors of the optimizer's state that are as its file has them, and other than was saved."""
        self._imprint = self._read(directory) if directory is not None else None

    @property
    def sentence(self) -> str:
        """What was compared, and how much of it is equal; empty where nothing was."""
        parts = [
            f"{found.equal:,} of {found.total:,} tensors of the {what}"
            for found, what in ((self._model, "model"), (self._optimizer, "optimizer's state"))
            if found.total
        ]
        return f"{' and '.join(parts)} equal what was saved" if parts else ""

    def check_model(self, directory: Path, lacking: list[str]) -> None:
        """Compare the model with the checkpoint that was just loaded into it, and put right what can be.

        `lacking` is what its loader knows to be in none of the files: `judge_unsaved` asks for it again. Raises
        ResumeRefused where another tensor has other values than were saved, and neither the user's own code nor the
        files are to blame.
        """
        if lacking:
            marks = {} if self._imprint is None else self._imprint.model
            self._unsaved = Unsaved(self._trainer, directory, lacking, marks)
        if self._imprint is not None and self._trainer.model is not None:
            self._model, held = self._compare_model(self._imprint, directory)
            judged = self._model.without(lacking)
            self.reasons += self._excused(self._imprint, judged, held, directory)

    def share(self) -> None:
        """Once all is loaded, on all ranks at once: where each holds all, rank 0 has seen all."""

    def judge_unsaved(self) -> None:
        """Once all others have done what they do at the begin of a training: what no file holds is there, or no loss.

        Raises ResumeRefused where it is neither.
        """
        unsaved, self._unsaved = self._unsaved, None
        if unsaved is None:
            return
        self.reasons += unsaved.judge()
        if self._imprint is not None:
            self._model = compared(self._imprint.model, model_state(self._trainer.model))

    def note_lost(self, paths: list[str]) -> None:
        """Hear of what the checkpoint holds beside the model, and has no place in this training."""
        if paths:
            text = f"beside the model: what was saved of {listed(paths)} has no place here, and begins anew"
            self.reasons.append(Reason(Exactness.APPROXIMATE, text))

    def check_best(self, directory: Path, lacking: list[str]) -> str:
        """The same for the best at the end: what can't be put right, in words; empty where all is as it was saved.

        `lacking` is what its loader knows to be in none of the files. What a loader of the user's own makes of it is
        said, and no fault.
        """
        imprint = self._read(directory)
        if imprint is None:
            return text_of(lacking, trained(self._trainer.model)) if lacking else ""
        found, held = self._compare_model(imprint, directory)
        wrong = [name for name in found.unequal if name not in held]
        if wrong and (loaders := own(self._trainer, LOADS)):
            text = "%s, the best, as %s loads it: %s"
            logger.warning(text, directory, ", ".join(loaders), _text_of_unequal(found, wrong))
            return ""
        return _text_of_unequal(found, wrong) if wrong else ""

    @contextmanager
    def of_optimizer(self, directory: Path | None) -> Iterator[None]:
        """Around the load of the optimizer: afterwards what was cast is put back as it was, and all is compared.

        Raises ResumeRefused for moments of another shape than their parameter.
        """
        if directory is None or not (directory / OPTIMIZER_NAME).is_file():
            yield
            return
        with loads_of(self._trainer) as loads:
            yield
        if self._imprint is None:
            return
        named = named_parameters_of(self._trainer)
        for state in loads:
            same = {number for number, name, parameter in named if self._as_saved(name, parameter)}
            uncast(bare_optimizer(self._trainer), state, [parameter for _, _, parameter in named], same)
        live = optimizer_state(self._trainer)
        self._optimizer = compared(self._imprint.optimizer, live)
        if loads and self._optimizer.unequal:
            given = tensors_of_state(loads[-1], [name for _, name, _ in named])
            as_given = (name for name in self._optimizer.unequal if name in given)
            self._rewritten = [name for name in as_given if mark_of(given[name]) == mark_of(live[name])]

    def judge_optimizer(self, directory: Path) -> None:
        """Raises ResumeRefused where the optimizer's state is not what was saved, and no other dtype explains that."""
        recast = set(self._model.cast)
        if self._rewritten:
            text = f"optimizer: {_tensors(self._rewritten)} of its state was rewritten in the file since the save"
            names = listed([_spelt(name) for name in self._rewritten])
            self.reasons.append(Reason(Exactness.APPROXIMATE, f"{text}: {names}"))
        wrong = [n for n in self._optimizer.wrong if n.partition("|")[0] not in recast and n not in self._rewritten]
        if not wrong:
            return
        names, kind = listed([_spelt(name) for name in wrong]), type(bare_optimizer(self._trainer))
        if not kind.__module__.startswith(("torch.", "transformers.", "deepspeed.")):
            text = f"optimizer: {kind.__name__} made something else of {_tensors(wrong)} of its saved state: {names}"
            self.reasons.append(Reason(Exactness.APPROXIMATE, text))
            return
        raise ResumeRefused(
            f"{len(wrong):,} of {self._optimizer.total:,} tensors of the optimizer's state are not what was saved in "
            f"{directory}: {names}",
            hint="Build the model and its optimizer as they were; or start a new run from the weights.",
        )

    def _read(self, directory: Path) -> Imprint | None:
        return Imprint.read(directory) if loads_whole_files(self._trainer) else None

    def _compare_model(self, imprint: Imprint, directory: Path) -> tuple[Found, set[str]]:
        """How the model compares, once what can be is put right, and the names of what is as the files have it."""
        model = self._trainer.model
        found = compared(imprint.model, model_state(model))
        if not found.unequal or own(self._trainer, LOADS):
            return found, set()
        held = mend(model, directory, found.unequal)
        again = compared(imprint.model, model_state(model))
        back = [name for name in found.unequal if name not in again.unequal]
        if back:
            logger.info(
                "the loader of this trainer left %s of %s as they were, or made something else of them; put right from "
                "the files, by name: %s", _tensors(back), directory.name, listed(back),
            )  # fmt: skip
        return again, held

    def _excused(self, imprint: Imprint, found: Found, held: set[str], directory: Path) -> Iterator[Reason]:
        """Why the model need not be what was saved. Raises ResumeRefused where nothing says that."""
        if found.cast:
            before = imprint.model[found.cast[0]].dtype
            yield _reason(f"{_tensors(found.cast)} had another dtype, such as {before}, and was cast", found.cast)
        if found.absent:
            yield _reason(f"{_tensors(found.absent)} of the checkpoint is not in this model", found.absent)
        loaders, savers = own(self._trainer, LOADS), own(self._trainer, SAVES)
        by_files = [name for name in found.unequal if name in held]
        if by_files:
            own_code = by_files[0] in imprint.unwritten and savers
            who = ", ".join(savers) if own_code else "its own save code, a callback in on_save, or a reseal"
            yield _reason(f"{_tensors(by_files)} was rewritten in the files, by {who}", by_files)
        wrong = [name for name in found.unequal if name not in held]
        if wrong and loaders:
            yield _reason(f"{', '.join(loaders)} gave {_tensors(wrong)} other values than were saved", wrong)
        elif wrong:
            raise ResumeRefused(
                f"{directory} was loaded, but {_text_of_unequal(found, wrong)}",
                hint="Build the model as it was. Or start a new run from the weights, loaded by from_pretrained.",
            )

    def _as_saved(self, name: str, parameter: torch.Tensor) -> bool:
        """True when a parameter has the dtype in which it was saved."""
        mark = self._imprint.model.get(name) if self._imprint is not None else None
        return mark is not None and str(parameter.dtype) == f"torch.{mark.dtype}"


def _reason(text: str, names: list[str]) -> Reason:
    return Reason(Exactness.APPROXIMATE, f"model: {text}: {listed(names)}")


def _text_of_unequal(found: Found, wrong: list[str]) -> str:
    return (
        f"{len(wrong):,} of {found.total:,} tensors of the model do not have the values that were saved "
        f"({found.share:.1%} of the values came back): {listed(wrong)}"
    )


def _tensors(names: list[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names):,} tensors"


def _spelt(name: str) -> str:
    parameter, _, key = name.partition("|")
    return f"{key} of {parameter}"
