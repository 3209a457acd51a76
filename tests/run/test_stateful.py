"""Random histories of a run (save, pin, prune, thin, rewind, restore, damage, die) against a plain reference."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from keepstep.errors import ResumeRefused
from keepstep.model import Checkpoint, Kind, State
from keepstep.operations.removing.carrying_out import apply_plan
from keepstep.operations.restoring import plan_restore, restore
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.testing.faults import Fault, Injector
from tests.small_run import FILES, LOSS, content, litter, make_checkpointer, save


class Killed(BaseException):
    """The process is gone."""


@dataclass(frozen=True, slots=True)
class Death(Fault):
    """Every change from here on happens no more, cleaning up included."""

    def strike(self, path: str) -> NoReturn:
        raise Killed(path)


@dataclass
class Reference:
    """What should be there: (generation, step) in order, the pinned, the damaged, the thinned, the metric's values; and
    what each was trained on from.
    """

    kept: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    pinned: set[int] = field(default_factory=set[int])
    damaged: set[int] = field(default_factory=set[int])
    thinned: set[int] = field(default_factory=set[int])
    loss: dict[int, float] = field(default_factory=dict[int, float])
    parents: dict[int, int | None] = field(default_factory=dict[int, int | None])

    def course(self, generation: int | None) -> set[int]:
        """Generations that one was trained through, its own too; most are gone by now."""
        found: set[int] = set()
        while generation is not None:
            found.add(generation)
            generation = self.parents[generation]
        return found

    def after_restore(self, generation: int, aside: dict[int, int]) -> list[tuple[int, int]]:
        """`aside` are steps by generation. Its course is the run's then, unless it is of the run's own."""
        newest = max((g for g, _ in self.kept), default=None)
        everything = dict(self.kept) | aside
        if generation in self.course(newest):
            return sorted([*self.kept, (generation, aside[generation])])
        return sorted((g, s) for g, s in everything.items() if g in self.course(generation))

    def save(self, generation: int, step: int, loss: float) -> None:
        replaced = [g for g, s in self.kept if s == step]
        self.kept = [(g, s) for g, s in self.kept if s != step] + [(generation, step)]
        self.loss[generation] = loss
        if self.pinned & set(replaced):
            self.pinned = (self.pinned - set(replaced)) | {generation}

    def after_prune(self, best: int, latest: int) -> list[tuple[int, int]]:
        ranked = sorted((g for g, _ in self.kept), key=lambda g: (self.loss[g], g))[:best]
        newest = [g for g, _ in self.kept if g not in self.thinned][-latest:]
        return [(g, s) for g, s in self.kept if g in {*ranked, *newest, *self.pinned}]

    def thins(self, best: int, latest: int) -> set[int]:
        """Generations that are kept for their metric alone."""
        newest = [g for g, _ in self.kept if g not in self.thinned][-latest:]
        return {g for g, _ in self.after_prune(best, latest)} - {*newest} - self.pinned

    def resumable(self) -> set[int]:
        return {g for g, _ in self.kept} - self.damaged - self.thinned

    def after_resume(self) -> list[tuple[int, int]]:
        """The newest undamaged one is the newest of all: damaged ones above it are in quarantine."""
        newest = max(self.resumable(), default=0)
        return [(g, s) for g, s in self.kept if g <= newest]


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="keepstep-")) / "run"
        self.reference = Reference()
        self.step = 0
        self.injector = Injector()
        self.patched = self.injector.injected()
        self.patched.__enter__()
        self.begin()

    def teardown(self) -> None:
        self.checkpointer.close()
        self.patched.__exit__(None, None, None)
        shutil.rmtree(self.path.parent)

    # -- helpers -----------------------------------------------------------------------------------------

    def begin(self, resume: str | int = "auto") -> None:
        self.checkpointer = make_checkpointer(self.path)
        self.checkpointer.begin(resume)
        self.run = self.checkpointer.run

    def listed(self) -> list[tuple[int, int]]:
        return [(checkpoint.generation, checkpoint.step) for checkpoint in self.run.checkpoints]

    def pick(self, number: int) -> Checkpoint:
        found = self.run.checkpoints
        return found[number % len(found)]

    def die_in(self, action: Callable[[], object], after: int) -> None:
        """Do it and die on the way (or at its end); then start again."""
        self.injector.fault = Death(len(self.injector.changes) + after, errno.EIO, sticky=True)
        try:
            action()
        except Killed:
            pass
        finally:
            self.injector.fault = None
        self.run.lock._lock.release()  # as the kernel does
        self.begin()

    # -- rules -------------------------------------------------------------------------------------------

    @rule(more=st.integers(0, 1), loss=st.integers(0, 5))
    def save(self, more: int, loss: int) -> None:
        """Zero more steps is the same step again."""
        self.step = max(1, self.step + more)
        checkpoint = save(self.checkpointer, self.step, float(loss))
        self.reference.save(checkpoint.generation, self.step, float(loss))

    @rule(loss=st.integers(0, 5), after=st.integers(1, 40))
    def die_while_saving(self, loss: int, after: int) -> None:
        self.step += 1
        generation, step = self.run.next_generation(), self.step
        before = self.reference.after_resume()
        self.die_in(lambda: save(self.checkpointer, step, float(loss)), after)
        if (generation, step) in self.listed():
            self.reference.save(generation, step, float(loss))
        else:
            self.reference.kept = before

    @precondition(lambda self: self.reference.kept)
    @rule(number=st.integers(0, 9), pinned=st.booleans())
    def pin(self, number: int, pinned: bool) -> None:
        generation = self.pick(number).generation
        if pinned:
            self.run.pin_board.pin(generation)
            self.reference.pinned.add(generation)
        else:
            self.run.pin_board.unpin(generation)
            self.reference.pinned.discard(generation)

    @rule(best=st.integers(1, 3), latest=st.integers(1, 3), whole=st.booleans())
    def prune(self, best: int, latest: int, whole: bool) -> None:
        thinned = set() if whole else self.reference.thins(best, latest)
        left = {g for g, _ in self.reference.after_prune(best, latest)} - self.reference.thinned - thinned
        if self.reference.damaged and not left - self.reference.damaged:
            return  # no plan can know of damage that nobody has looked for
        apply_plan(self.run, self.run.plan(_policy(best, latest, whole)))
        self.reference.kept = self.reference.after_prune(best, latest)
        self.reference.thinned |= thinned

    @rule(best=st.integers(1, 3), latest=st.integers(1, 3), whole=st.booleans(), after=st.integers(1, 40))
    def die_while_pruning(self, best: int, latest: int, whole: bool, after: int) -> None:
        if self.reference.damaged:
            return
        plan = self.run.plan(_policy(best, latest, whole))
        may_thin = set() if whole else self.reference.thins(best, latest)
        self.die_in(lambda: apply_plan(self.run, plan), after)
        listed = self.listed()
        assert set(self.reference.after_prune(best, latest)) <= set(listed) <= set(self.reference.kept)
        self.reference.kept = listed
        thinned = {c.generation for c in self.run.checkpoints if c.kind is Kind.WEIGHTS}
        assert self.reference.thinned & {g for g, _ in listed} <= thinned <= self.reference.thinned | may_thin
        self.reference.thinned = thinned

    @precondition(lambda self: self.reference.kept and not self.reference.damaged)
    @rule(number=st.integers(0, 9))
    def rewind(self, number: int) -> None:
        target = self.pick(number)
        self.checkpointer.close()
        if target.kind is Kind.WEIGHTS:
            with pytest.raises(ResumeRefused, match="weights only"):
                make_checkpointer(self.path).begin(target.step)
            self.restart()
            return
        self.begin(target.step)
        self.reference.kept = [(g, s) for g, s in self.reference.kept if g <= target.generation]
        self.step = target.step

    @precondition(lambda self: self.reference.kept and not self.reference.damaged)
    @rule(number=st.integers(0, 9), after=st.integers(1, 25))
    def die_while_rewinding(self, number: int, after: int) -> None:
        target = self.pick(number)
        if target.kind is Kind.WEIGHTS:  # it is refused before anything is rewound, as `rewind` shows
            return
        self.checkpointer.close()
        self.checkpointer = make_checkpointer(self.path)
        self.run.lock.acquire()
        self.die_in(lambda: self.run.rewind(target), after)
        rewound = [(g, s) for g, s in self.reference.kept if g <= target.generation]
        assert self.listed() in (rewound, self.reference.kept)
        self.reference.kept = self.listed()

    def pick_aside(self, number: int) -> Checkpoint | None:
        """A whole one that a rewind or a restore has set aside."""
        lying = [c for c in self.run.aside if c.state is State.SET_ASIDE and c.kind is Kind.FULL]
        return lying[number % len(lying)] if lying else None

    def restored(self, target: Checkpoint) -> list[tuple[int, int]]:
        """What a restore is to leave; what of it was thinned counts as such again."""
        aside = {c.generation: c for c in self.run.aside if c.state is State.SET_ASIDE}
        self.reference.thinned |= {g for g, c in aside.items() if c.kind is Kind.WEIGHTS}
        return self.reference.after_restore(target.generation, {g: c.step for g, c in aside.items()})

    @precondition(lambda self: not self.reference.damaged)
    @rule(number=st.integers(0, 9))
    def restore(self, number: int) -> None:
        if (target := self.pick_aside(number)) is None:
            return
        after = self.restored(target)
        self.checkpointer.close()
        run = Run.open(self.path)
        restore(run, plan_restore(run, f"gen:{target.generation}"))
        self.reference.kept = after
        self.begin()
        self.reference.kept = self.reference.after_resume()
        self.step = self.reference.kept[-1][1]

    @precondition(lambda self: not self.reference.damaged)
    @rule(number=st.integers(0, 9), after=st.integers(1, 40))
    def die_while_restoring(self, number: int, after: int) -> None:
        if (target := self.pick_aside(number)) is None:
            return
        before, done = self.reference.after_resume(), self.restored(target)
        self.checkpointer.close()
        self.checkpointer = make_checkpointer(self.path)
        self.run.lock.acquire()
        what = self.run.way_back(target)
        self.die_in(lambda: self.run.bring_back(what), after)
        self.reference.kept = done
        if self.listed() != self.reference.after_resume():
            assert self.listed() == before
            self.reference.kept = before
        else:
            self.reference.kept = self.reference.after_resume()
        self.step = self.reference.kept[-1][1] if self.reference.kept else self.step

    @precondition(lambda self: len(self.reference.resumable()) > 1)
    @rule(number=st.integers(0, 9), offset=st.integers(0, 199))
    def damage(self, number: int, offset: int) -> None:
        checkpoint = self.pick(number)
        if checkpoint.generation in self.reference.damaged:
            return
        assert checkpoint.path is not None
        data = bytearray((checkpoint.path / FILES[0]).read_bytes())
        data[offset] ^= 1
        (checkpoint.path / FILES[0]).write_bytes(data)
        self.reference.damaged.add(checkpoint.generation)

    @rule()
    def restart(self) -> None:
        self.checkpointer.close()
        self.begin()
        self.reference.kept = self.reference.after_resume()

    # -- what holds at any time ----------------------------------------------------------------------------

    @invariant()
    def the_run_is_what_the_reference_says(self) -> None:
        there = {generation for generation, _ in self.reference.kept}
        self.reference.damaged &= there
        assert self.listed() == self.reference.kept
        self.reference.parents |= {c.generation: c.parent for c in self.run.checkpoints}
        assert self.run.pins.pinned == self.reference.pinned
        assert litter(self.path) == []
        best = min(there, key=lambda g: (self.reference.loss[g], g), default=None)
        assert (self.run.best.generation if self.run.best else None) == best

    @invariant()
    def every_undamaged_one_has_its_bytes(self) -> None:
        for checkpoint in self.run.checkpoints:
            assert self.run.verify(checkpoint).ok == (checkpoint.generation not in self.reference.damaged)
            if checkpoint.generation not in self.reference.damaged:
                assert checkpoint.path is not None
                files = FILES[:1] if checkpoint.generation in self.reference.thinned else FILES
                assert (checkpoint.kind is Kind.WEIGHTS) == (checkpoint.generation in self.reference.thinned)
                assert all((checkpoint.path / f).read_bytes() == content(f, checkpoint.step) for f in files)


def _policy(best: int, latest: int, whole: bool) -> Policy:
    return Policy.from_spec(f"best:{best}{':full' * whole},latest:{latest}", LOSS)


def _explore(examples: int) -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(max_examples=examples, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )


def test_random_histories() -> None:
    _explore(30)


@pytest.mark.campaign
def test_many_random_histories() -> None:
    _explore(300)
