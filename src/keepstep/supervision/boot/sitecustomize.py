"""The first module of a supervised Python: puts the hook in its place, then hands over to a `sitecustomize` of others.

It never raises on its own account, and takes its directory off `sys.path`; processes that this one starts find it
again through PYTHONPATH.
"""

# Every Python that a supervised command starts comes by here: nothing is imported that is not needed.
import os
import sys

_HERE, _OURS = os.path.dirname(__file__), sys.modules[__name__]

if os.environ.get("KEEPSTEP_MARKS"):
    try:
        import keepstep_boot  # pyright: ignore[reportMissingImports]

        keepstep_boot.install()
    except Exception as error:
        print(f"keepstep: the hook is not in place: {error!r}", file=sys.stderr)
sys.path[:] = [place for place in sys.path if place != _HERE]
del sys.modules["sitecustomize"]
try:
    import sitecustomize as _theirs  # noqa: F401  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    if error.name != "sitecustomize":
        raise
finally:
    sys.modules.setdefault("sitecustomize", _OURS)
