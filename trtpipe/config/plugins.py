"""The plug-in libraries a profile names: shared objects whose code runs in the builder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.digest import sha256_file
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.config.profile import BuildSettings


def plugin_paths(options: BuildSettings) -> tuple[Path, ...]:
    """The libraries, absolute; relative names count from the working folder.

    Raises:
        InputError: one does not exist.
    """
    paths = tuple(Path(name).absolute() for name in options.plugins)
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such plug-in library", "correct plugins in the profile's [build] table")
    return paths


def plugin_digests(options: BuildSettings) -> dict[str, str]:
    """File name of each library -> digest of its content; raises what ``plugin_paths`` raises."""
    return {path.name: sha256_file(path) for path in plugin_paths(options)}
