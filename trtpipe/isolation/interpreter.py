"""Python environments other than this one, in which a child process may run: found beside it, or named by the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import trtpipe
from trtpipe.artifact import Record
from trtpipe.config.settings import child_environment
from trtpipe.config.toolchain import python_version, version
from trtpipe.errors import HostError, InputError

#: Printed by the other interpreter as its last line.
_QUESTION = """
import json, sys
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
names = ("trtpipe", *sys.argv[1:])
print()
print(json.dumps({"tag": sys.implementation.cache_tag, "version": sys.version.split()[0], "path": sys.path,
                  "packages": {name: version(name) for name in names}}))
"""
_SECONDS = 60.0


class _Answer(Record):
    tag: str
    version: str
    path: tuple[str, ...]
    packages: dict[str, str]


_ANSWER = TypeAdapter(_Answer)


@dataclass(frozen=True)
class Interpreter:
    """A Python environment.

    Attributes:
        executable: its interpreter.
        path: where a child that it runs imports from: its own folders first, then, where both are of one version of
            Python, those of this process, so that it needs no more than the package it was made for.
        packages: name -> version of the packages that were asked about; empty where one is not installed.
    """

    executable: Path
    path: tuple[str, ...]
    packages: dict[str, str]


def interpreter_of(place: Path, *packages: str) -> Interpreter:
    """The environment at ``place``: its interpreter (``.venv/bin/python``), or its folder (``.venv``).

    Args:
        packages: distributions whose versions are asked for.

    Raises:
        InputError: there is no interpreter, or what is there does not answer like one.
        HostError: it holds another trtpipe, or is of another version of Python and lacks trtpipe's own requirements.
    """
    executable = place / "bin" / "python" if place.is_dir() else place
    if not executable.is_file() or not os.access(executable, os.X_OK):
        raise InputError(
            f"{place}: no Python interpreter", "name one, such as .venv/bin/python, or the folder of an environment"
        )
    answer = _ask(executable.absolute(), packages)
    if (other := answer.packages["trtpipe"]) not in ("", trtpipe.__version__):
        raise HostError(
            f"{place}: holds trtpipe {other}, and this is {trtpipe.__version__}",
            "install the same version there, or take it out: TensorRT alone is enough",
        )
    own = answer.tag == sys.implementation.cache_tag
    if not own and not answer.packages["trtpipe"]:
        raise HostError(
            f"{place}: Python {answer.version}, and trtpipe runs in {python_version()}",
            f"install trtpipe {trtpipe.__version__} there too, or make an environment of the same Python",
        )
    path = tuple(dict.fromkeys((*answer.path, *(sys.path if own else ()))))
    return Interpreter(executable.absolute(), path, answer.packages)


def own_interpreter(*packages: str) -> Interpreter:
    """The environment of this process."""
    versions = {package: version(package) or "" for package in packages}
    return Interpreter(Path(sys.executable), tuple(sys.path), versions)


def neighbors(package: str) -> tuple[Path, ...]:
    """Folders of the environments beside this process's own that have ``package``, by name; none is run.

    Virtual environments of a project, and those that tools keep in one folder (``.tox``, ``envs``, ``.virtualenvs``),
    lie beside each other.
    """
    here = Path(sys.prefix)
    if sys.prefix == sys.base_prefix:
        return ()
    found = []
    for folder in sorted(here.parent.iterdir()):
        names = folder.glob(f"lib/python3*/site-packages/{package.replace('-', '_')}-*.dist-info")
        if folder != here and (folder / "bin" / "python").exists() and any(names):
            found.append(folder)
    return tuple(found)


def _ask(executable: Path, packages: tuple[str, ...]) -> _Answer:
    """What an interpreter says of itself; it ignores this process's PYTHON variables."""
    remedy = "name a working Python, such as .venv/bin/python"
    try:
        done = subprocess.run(
            [executable, "-I", "-c", _QUESTION, *packages],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{executable}: no answer within {_SECONDS:.0f} s", remedy) from error
    except OSError as error:
        raise InputError(f"{executable}: does not start: {error.strerror}", remedy) from error
    lines = done.stdout.decode(errors="replace").splitlines()
    try:
        return _ANSWER.validate_python(json.loads(lines[-1]) if lines and not done.returncode else None)
    except (ValueError, ValidationError) as error:
        reason = f"{executable}: does not answer like Python (exit status {done.returncode})"
        raise InputError(reason, remedy) from error
