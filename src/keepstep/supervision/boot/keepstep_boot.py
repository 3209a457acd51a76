"""The hook: waits for `transformers.trainer` to be imported, and leads every `train()` past keepstep.

A class that overrides `train` is led past it too, so that the outermost `train` is where a training begins: its body
runs once. Nothing of keepstep is imported before a training begins.
"""

import os
import sys

import keepstep_marks as marks  # pyright: ignore[reportMissingImports] - it lies beside this file

NAME = "transformers.trainer"
MANAGED = "keepstep.integrations.transformers.managed"
ATTACH = "KEEPSTEP_ATTACH"
_LED = "_keepstep_led"
_HANDED = "_keepstep_handed"
_NOTHING = object()


class Loader:
    """A loader that has the last word on the module that it loads."""

    def __init__(self, inner, after):
        self._inner = inner
        self._after = after

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def create_module(self, spec):
        """What the true loader makes."""
        return self._inner.create_module(spec)

    def exec_module(self, module):
        """Run the module by its true loader, which is put back first: who inspects it sees nothing of ours."""
        module.__spec__.loader = module.__loader__ = self._inner
        self._inner.exec_module(module)
        self._after(module)


class Finder:
    """Finds the modules that are waited for, by asking the finders that there are."""

    _busy = False

    def find_spec(self, name, path=None, target=None):
        """The spec of such a module with our loader around its own; None for every other one."""
        if name not in _AFTER or self._busy:
            return None
        self._busy = True
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        spec.loader = Loader(spec.loader, _AFTER[name])
                    return spec
        finally:
            self._busy = False
        return None


def install():
    """Hear how this process ends, and wait for the Trainer."""
    marks.hear_ends()
    for name, after in _AFTER.items():
        if name in sys.modules:
            after(sys.modules[name])
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def lead(module):
    """Lead past keepstep the `train` of the module's Trainer and of every class derived from it, now and later."""
    import importlib.util

    base = getattr(module, "Trainer", None)
    if base is None or _LED in vars(base):
        return
    if importlib.util.find_spec("keepstep") is None:
        if os.environ.get(ATTACH):
            print(f"keepstep: nothing is managed: it is not installed for {sys.executable}", file=sys.stderr)
            marks.write("attached", {"managed": False, "why": f"keepstep is not installed for {sys.executable}"})
        return
    setattr(base, _LED, True)
    _lead_train(base)
    before = vars(base).get("__init_subclass__")

    def init_subclass(cls, **options):
        if before is None:
            super(base, cls).__init_subclass__(**options)
        else:
            before.__func__(cls, **options)
        _lead_derived(cls)

    base.__init_subclass__ = classmethod(init_subclass)
    waiting = list(base.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        _lead_derived(cls)


def hear(module):
    """Tell how the trainings of keepstep's own class end: one that saved and stopped exits, which launchers hide."""
    import functools

    cls = getattr(module, "ManagedTrainer", None)
    if cls is None or _LED in vars(cls):
        return
    setattr(cls, _LED, True)
    inner = cls.train

    @functools.wraps(inner)
    def train(self, *args, **kwargs):
        try:
            return inner(self, *args, **kwargs)
        except BaseException as error:
            marks.tell_end(error, step=getattr(getattr(self, "state", None), "global_step", None))
            raise

    cls.train = train


_AFTER = {NAME: lead, MANAGED: hear}
"""What is done with a module, once it has run."""


def _lead_derived(cls):
    if "train" in vars(cls) and cls.__module__.split(".")[0] != "keepstep":
        _lead_train(cls)


def _lead_train(cls):
    import functools

    inner = vars(cls)["train"]

    @functools.wraps(inner)
    def train(self, *args, **kwargs):
        handed = vars(self).get(_HANDED, _NOTHING)
        if handed is not _NOTHING and _takes_reference(inner):
            # Somebody's own `train(self)` stands between: what to resume from comes past it.
            del vars(self)[_HANDED]
            args = (handed, *args[1:])
        launched = None if "_keepstep_watched" in vars(self) else _launched()
        if launched is None:
            return inner(self, *args, **kwargs)
        return launched.train(self, inner, args, kwargs, marks)

    cls.train = train


def _takes_reference(function):
    import inspect

    kinds = [one.kind for one in inspect.signature(function).parameters.values()][1:]
    return bool(kinds) and kinds[0] != inspect.Parameter.KEYWORD_ONLY


def _launched():
    """Keepstep's side of it; None where it can't be imported, which is said once and harms no training."""
    import importlib

    try:
        # By name: the supervisor reads this file too, and must do without torch.
        return importlib.import_module("keepstep.integrations.transformers.launched")
    except Exception as error:
        print(f"keepstep: nothing is managed: {error!r}", file=sys.stderr)
        marks.write("attached", {"managed": False, "why": repr(error)})
        return None
