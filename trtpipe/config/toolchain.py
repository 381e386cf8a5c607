"""Versions that may enter a key, and the machine that reports name."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CPUINFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")


@cache
def version(package: str) -> str | None:
    """The installed version of ``package``, or ``None`` where it is not installed. Does not import it.

    ``package`` names a distribution (``onnxruntime``) or the module it installs: another distribution of the same
    module (``onnxruntime-gpu``) answers too.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        module = package.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        return None
    owners = metadata.packages_distributions().get(module, [])
    return metadata.version(min(owners)) if owners else None


def versions(names: Iterable[str]) -> dict[str, str]:
    """name -> version, ``"absent"`` where not installed: the slice of the toolchain that enters a key."""
    return {name: version(name) or "absent" for name in sorted(names)}


def python_version() -> str:
    """The version of the running interpreter: ``3.11.7``."""
    return platform.python_version()


def machine() -> dict[str, str | int]:
    """What reports say of this machine; never part of a key, except where latency is what was measured.

    Returns:
        ``cpu`` (model name), ``cores`` (that this process may use), ``memory`` (bytes), ``os``, ``python``.
    """
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.platform(terse=True),
        "python": python_version(),
    }


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    if sys.platform == "darwin":
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return answer.stdout.strip() or platform.machine()
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    if _BOARD.exists():  # ARM boards name the board, not the core
        return _BOARD.read_text(errors="replace").strip("\0\n ")
    return platform.machine()
