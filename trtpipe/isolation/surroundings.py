"""The surroundings of a process, which the user's code finds in a child of a server as it left them in the parent."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import numpy as np

from trtpipe.artifact import Record
from trtpipe.config.settings import child_environment, replace_environment


class Surroundings(Record):
    """What code sees of its process, but for files it has open.

    Bytes of paths and variables are characters of the same number, because not all are UTF-8.

    Attributes:
        folder: the working folder.
        path: what ``sys.path`` holds.
        environment: all variables but the secret of the cache.
    """

    folder: str
    path: tuple[str, ...]
    environment: dict[str, str]

    @classmethod
    def here(cls) -> Surroundings:
        """Those of this process."""
        return cls(
            folder=_as_text(os.fsencode(Path.cwd())),
            path=tuple(_as_text(os.fsencode(path)) for path in sys.path),
            environment={_as_text(name): _as_text(value) for name, value in child_environment().items()},
        )

    def take_over(self) -> None:
        """Make them this process's own, with random numbers of its own: all children of a server begin alike."""
        replace_environment({_as_bytes(name): _as_bytes(value) for name, value in self.environment.items()})
        sys.path[:] = [os.fsdecode(_as_bytes(path)) for path in self.path]
        os.chdir(_as_bytes(self.folder))
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # text streams of this interpreter
        random.seed()
        np.random.seed()


def _as_text(value: bytes) -> str:
    return value.decode("latin-1")


def _as_bytes(text: str) -> bytes:
    return text.encode("latin-1")
