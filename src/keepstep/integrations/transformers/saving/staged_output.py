"""The directory that stands for `output_dir` while a checkpoint is being written in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from keepstep.integrations.transformers.setup.messages import logger
from keepstep.model import FULL_PREFIX, FileEntry
from keepstep.repository import MANIFEST_NAME, Loaders


class StagedOutput:
    """A place beside a staged checkpoint in which stock writers, and users' own save code, write one save.

    What they put into the checkpoint of the step becomes the staged checkpoint; so does what somebody who knew the
    real `output_dir` from before put into a directory of that name there. What they put anywhere else in `path`
    belongs to the real one, and goes there.
    """

    def __init__(self, directory: Path, output_dir: Path, step: int) -> None:
        # Under the run's own name: model cards tell it.
        self.path = directory.parent / "output" / (output_dir.name or "run")
        self.checkpoint = self.path / f"{FULL_PREFIX}{step}"
        self._directory = directory
        self._output_dir = output_dir
        self._final = output_dir / directory.name
        self._was_there = os.path.lexists(self._final)

    def __enter__(self) -> StagedOutput:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def open(self) -> None:
        """Make the place. Raises OSError."""
        self.path.mkdir(parents=True)

    def close(self) -> None:
        """Put everything where it belongs, once all is written. Raises OSError."""
        if self.checkpoint.is_dir():
            self._directory.rmdir()
            self.checkpoint.rename(self._directory)
        self._take_strays()
        _merge(self.path, self._output_dir)
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def take_links(self) -> None:
        """Where a loader would follow a link of the user's in the staged checkpoint, put the file that it leads to.

        A checkpoint is verified by its own bytes. A link that leads to no file is left out, which is said. Call it
        when all files are written: a link may lead to one of them, by a name that was good while it was made.
        """
        below = [path for path in self._directory.rglob("*") if path.is_symlink() or path.is_file()]
        if not any(path.is_symlink() for path in below):
            return
        names = {path: path.relative_to(self._directory).as_posix() for path in below}
        loaders = Loaders(FileEntry(names[path], 0, "") for path in below if not path.is_symlink())
        for link in below:
            if not link.is_symlink() or not loaders.why(names[link]):
                continue
            source = next((path for path in self._targets(link) if path.is_file() and os.access(path, os.R_OK)), None)
            leads_to = os.readlink(link)
            link.unlink()
            if source is not None:
                shutil.copyfile(source, link)
            else:
                logger.warning("%s is a link to %s, no file that can be read: it is left out", names[link], leads_to)

    def _targets(self, link: Path) -> Iterator[Path]:
        """Where a link may lead to: as it stands now, as it stood while it was made, and once it is committed."""
        homes = (self._directory, self.checkpoint, self._final)
        for home in homes:
            place = home / link.relative_to(self._directory).parent / os.readlink(link)
            path = Path(os.path.normpath(place))
            yield path
            yield from (self._directory / path.relative_to(other) for other in homes if path.is_relative_to(other))

    def _take_strays(self) -> None:
        stray = self._final
        if not self._was_there and stray.is_dir() and not stray.is_symlink() and not (stray / MANIFEST_NAME).exists():
            _merge(stray, self._directory)
            shutil.rmtree(stray, ignore_errors=True)


def _merge(source: Path, target: Path) -> None:
    """Move every file of a directory into another, over files of the same names."""
    for directory, _, names in os.walk(source):
        home = target / Path(directory).relative_to(source)
        for name in names:
            home.mkdir(parents=True, exist_ok=True)
            os.replace(os.path.join(directory, name), home / name)
