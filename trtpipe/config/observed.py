"""Whether what some code read is still as it was."""

from __future__ import annotations

import os
import stat
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from trtpipe.artifact import Observed
from trtpipe.config.settings import environment
from trtpipe.digest import sha256_file, sha256_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.digest import JSON

#: Read by the interpreter itself, to find modules.
_IMPORTS = "PYTHONPATH"


class Memory(Protocol):
    """Remembers small facts between runs; losing one costs work, never correctness."""

    def remember(self, name: str, value: JSON) -> None: ...

    def recall(self, name: str) -> JSON | None: ...


class UserCode:
    """Code of the user's that a stage runs. Its identity is remembered together with all that it was seen to read;
    while that is as it was, the identity holds. Code that used what cannot be seen has to run again.

    Args:
        kind: of the code, as errors and reports call it.
        place: what tells it from others of its kind.
    """

    def __init__(self, kind: str, *place: JSON) -> None:
        self._memo = f"{kind}-{sha256_json(list(place))}"

    def recall(self, memory: Memory) -> str | None:
        """The identity, if all that was read last time is as it was."""
        known = memory.recall(self._memo)
        if not isinstance(known, dict):
            return None
        try:
            observed = Observed.model_validate(known["observed"])
        except (KeyError, TypeError, ValidationError):
            return None
        return str(known["identity"]) if state_of(observed) == known.get("state") else None

    def remember(self, memory: Memory, observed: Observed, identity: str) -> None:
        """Remember ``identity`` with what was read, if that is all there is to know."""
        if observed.unseen:
            memory.remember(self._memo, None)
        else:
            state = state_of(observed)
            memory.remember(self._memo, {"observed": observed.to_dict(), "state": state, "identity": identity})


def state_of(observed: Observed, variables: Mapping[str, str] | None = None) -> str:
    """A digest of everything in ``observed`` as it is now, and of which packages are installed."""
    env = environment() if variables is None else variables
    names = sorted(env) if "*" in observed.variables else observed.variables
    return sha256_json(
        [
            [[path, _content(path)] for path in observed.files],
            [[path, _kind(path)] for path in observed.asked],
            [[path, _measure(path)] for path in observed.measured],
            [[path, _names(path)] for path in observed.listed],
            [[os.fsencode(name).hex(), _hidden(env.get(name))] for name in (*names, _IMPORTS)],
            _installed(),
        ]
    )


def _hidden(value: str | None) -> str | None:
    """A variable's value as hex digits, so that any bytes can be part of the digest."""
    return None if value is None else os.fsencode(value).hex()


def _content(path: str) -> str | None:
    found = Path(path)
    try:
        return sha256_file(found) if found.is_file() else None
    except OSError:
        return None


def _kind(path: str) -> str | None:
    """File, folder or nothing, and where a link leads."""
    try:
        mode = os.lstat(path).st_mode
        if not stat.S_ISLNK(mode):
            return _kind_of(mode)
        target = os.fsencode(os.readlink(path)).hex()  # noqa: PTH115
    except OSError:
        return None
    try:
        return f"link {target} {_kind_of(os.stat(path).st_mode)}"  # noqa: PTH116
    except OSError:
        return f"link {target}"


def _kind_of(mode: int) -> str:
    return f"{stat.S_IFMT(mode):o}"


def _measure(path: str) -> Any:
    """Kind, size and time; of all that is in a folder for ``folder/*``."""
    folder, _, last = path.rpartition("/")
    try:
        if last == "*":
            return [[_hidden(name), _measure(f"{folder}/{name}")] for name in sorted(os.listdir(folder or "/"))]  # noqa: PTH208
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return [_kind_of(status.st_mode), status.st_size, status.st_mtime_ns]


def _names(path: str) -> list[list[str | None]] | None:
    """Names and kinds of what is in a folder."""
    try:
        return [[_hidden(name), _kind(f"{path}/{name}")] for name in sorted(os.listdir(path))]  # noqa: PTH208
    except OSError:
        return None


@cache
def _installed() -> tuple[str, ...]:
    """Name and version of every installed package, by its metadata folder."""
    found = set()
    for folder in {sysconfig.get_paths()[name] for name in ("purelib", "platlib")}:
        if os.path.isdir(folder):  # noqa: PTH112
            found |= {name for name in os.listdir(folder) if name.endswith((".dist-info", ".egg-info", ".pth"))}  # noqa: PTH208
    return tuple(sorted(found))
