"""The logger of keepstep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import logging


class _Logger:
    """`logging.getLogger("keepstep")`; logging is imported once there is something to say, which is seldom."""

    def __getattr__(self, name: str) -> Any:
        import logging

        return getattr(logging.getLogger("keepstep"), name)


logger = cast("logging.Logger", _Logger())
