"""What trtpipe's own metadata says it needs: the one list of packages, kept in pyproject.toml."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from importlib import metadata

from trtpipe.config.os_errors import cannot_load
from trtpipe.errors import HostError

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^]]*\])?\s*(?P<bounds>[^;]*)(?:;(?P<marker>.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_PYTHON = re.compile(r"""python_(?:full_)?version\s*(<|>=)\s*["']([\d.]+)["']""")


@dataclass(frozen=True)
class Requirement:
    """One package.

    Attributes:
        least: the least version; empty if any will do.
        extra: the extra that brings it; empty for the core.
    """

    name: str
    least: str = ""
    extra: str = ""

    def allows(self, version: str) -> bool:
        """Whether ``version`` is new enough; only its numbers count."""
        return _release(version) >= _release(self.least)


def require(module: str, doing: str, extra: str, package: str = "") -> None:
    """Raise HostError unless ``module`` can be imported here: ``reading HDF5 needs the package h5py``."""
    remedy = f"pip install 'trtpipe[{extra}]'"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise HostError(f"{doing} needs the package {package or module}, which is not installed", remedy) from error
    except (ImportError, OSError) as error:
        raise cannot_load(package or module, error, remedy) from error


def requirements(package: str) -> tuple[Requirement, ...]:
    """What the installed ``package`` needs on this Python, core first; empty if it is not installed."""
    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return ()
    found = [parsed for line in lines if (parsed := parse_requirement(line)) is not None]
    return tuple(sorted(found, key=lambda need: need.extra != ""))


def parse_requirement(line: str) -> Requirement | None:
    """``torch>=2.10; extra == "torch"`` as a value; ``None`` where this Python does not need it."""
    match = _LINE.fullmatch(line.strip())
    if match is None:
        return None
    marker = match["marker"] or ""
    for sign, bound in _PYTHON.findall(marker):
        if (sys.version_info[:3] < tuple(map(int, bound.split(".")))) != (sign == "<"):
            return None
    extra, least = _EXTRA.search(marker), re.search(r">=\s*([\w.]+)", match["bounds"])
    return Requirement(match["name"], least[1] if least else "", extra[1] if extra else "")


def _release(version: str) -> tuple[int, ...]:
    """The numbers a version begins with, without zeros at the end: 2.10 is 2.10.0."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)
