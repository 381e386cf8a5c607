"""What trtpipe needs, and how to install it: the one list of packages, kept in pyproject.toml."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import trtpipe
from trtpipe.config.os_errors import cannot_load
from trtpipe.errors import HostError

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^]]*\])?\s*(?P<bounds>[^;]*)(?:;(?P<marker>.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
#: A file in an environment's folder -> what adds packages there; pip does elsewhere.
_INSTALLERS = {"pipx_metadata.json": "pipx inject trtpipe", "uv-receipt.toml": "uv pip install --python {prefix}"}
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

    def __str__(self) -> str:
        return f"{self.name}>={self.least}" if self.least else self.name

    def allows(self, version: str) -> bool:
        """Whether ``version`` is new enough; only its numbers count."""
        return _release(version) >= _release(self.least)


def require(module: str, doing: str, extra: str, package: str = "") -> None:
    """Raise HostError unless ``module`` can be imported here: ``reading HDF5 needs the package h5py``."""
    remedy = install(extra)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise HostError(f"{doing} needs the package {package or module}, which is not installed", remedy) from error
    except (ImportError, OSError) as error:
        raise cannot_load(package or module, error, remedy) from error


def install(extra: str) -> str:
    """The command that installs what an extra brings: ``pip install 'torch>=2.10' 'onnxscript>=0.5'``.

    It names the packages themselves: trtpipe may come from a checkout, a wheel or an index, and they are on the index
    in each case.
    """
    needs = [need for need in requirements() if need.extra == extra]
    if not needs:
        return f"install the packages that pyproject.toml of trtpipe lists for its extra {extra!r}"
    prefix = Path(sys.prefix)
    tools = (tool for mark, tool in _INSTALLERS.items() if (prefix / mark).is_file())
    return " ".join([next(tools, "pip install").format(prefix=prefix), *(f"'{need}'" for need in needs)])


def requirements() -> tuple[Requirement, ...]:
    """What trtpipe needs on this Python, core first; nothing where neither metadata nor a checkout says it."""
    found = [parsed for line in _lines() if (parsed := parse_requirement(line)) is not None]
    return tuple(sorted(found, key=lambda need: need.extra != ""))


def _lines() -> list[str]:
    """As ``Requires-Dist`` has them. Those of a checkout: the metadata beside it is as old as its installation."""
    file = Path(trtpipe.__file__).parents[1] / "pyproject.toml"
    project: dict[str, Any] = {}
    if file.is_file():
        from trtpipe.config.toml_text import read_toml  # not where packages are run: Python 3.10 has no reader

        project = read_toml(file).get("project", {})
    if project.get("name") != "trtpipe":
        try:
            return metadata.requires("trtpipe") or []
        except metadata.PackageNotFoundError:
            return []
    extras = project["optional-dependencies"].items()
    return [*project["dependencies"], *(_in_extra(line, extra) for extra, lines in extras for line in lines)]


def _in_extra(line: str, extra: str) -> str:
    what, _, marker = line.partition(";")
    return f"{what}; {marker and f'({marker.strip()}) and '}extra == '{extra}'"


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
