"""The NVIDIA GPUs of this machine, from ``nvidia-smi``, without loading CUDA."""

from __future__ import annotations

import csv
import ctypes
import shutil
import subprocess
import sys
from dataclasses import dataclass

from trtpipe.backends.base import Refusal
from trtpipe.config.target import Target, find_target
from trtpipe.errors import InputError

_QUERY = "uuid,name,compute_cap,driver_version,memory.total"
_TIMEOUT_SECONDS = 20.0
_MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        uuid: the driver's identifier, for ``CUDA_VISIBLE_DEVICES``.
        capability: (major, minor).
        driver: the driver's version.
        memory: bytes; ``None`` if it shares host memory (Jetson).
    """

    uuid: str
    name: str
    capability: tuple[int, int]
    driver: str
    memory: int | None

    @property
    def target(self) -> str:
        """The target of its compute capability: ``sm89``."""
        return f"sm{self.capability[0]}{self.capability[1]}"

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that ``nvidia-smi`` lists; none if it is missing, hangs or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(answer.stdout)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs in the output of ``nvidia-smi``, without those of unknown compute capability."""
    found = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) == len(_QUERY.split(",")):
            uuid, name, capability, driver, memory = (cell.strip() for cell in row)
            known = _capability(capability, name)
            if known is not None:
                size = int(memory) * _MIB if memory.isdigit() else None
                found.append(Gpu(uuid, name, known, driver, size))
    return tuple(found)


def cannot_run(target: Target) -> Refusal | None:
    """Why an engine for ``target`` cannot run on this machine, or ``None`` if it can."""
    here = gpus()
    if not here:
        return Refusal("this machine has no NVIDIA GPU", f"verify and measure on a machine with an {target} GPU")
    if any(gpu.capability == target.capability for gpu in here):
        return None
    names = ", ".join(map(str, here))
    return Refusal(f"this machine's GPU is {names}, the engine is for {target}", f"use a machine with an {target} GPU")


def has_driver() -> bool:
    """Whether the CUDA driver's library can be loaded. A machine without a GPU may have it too."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _capability(text: str, name: str) -> tuple[int, int] | None:
    """From ``8.9``; on a Jetson it is ``[N/A]``, so the first word of the name (``Orin``) is used."""
    major, dot, minor = text.partition(".")
    if dot and major.isdigit() and minor.isdigit():
        return int(major), int(minor)
    try:
        return find_target(name.partition(" ")[0]).capability
    except InputError:
        return None
