"""GPU targets: a compute capability, the names people know it by, what it computes in and which TensorRT builds for it.

Engines are built per capability; a product name is only an alias. Sources: NVIDIA's list of compute capabilities
(developer.nvidia.com/cuda-gpus), the support matrices of TensorRT and TensorRT-RTX, and their release notes for the
first version that knows a GPU. TensorRT-RTX's targets are those its builder accepts, 1.5 to 1.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from trtpipe.config.formats import FORMATS, FP32
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.config.formats import Format, Precision


@dataclass(frozen=True)
class Support:
    """The versions of one flavor of TensorRT that build for a target.

    Versions that are known not to are left out; later ones than the table knows are taken to.

    Attributes:
        since: the first version, (major, minor).
        gap: the first version in between that does not, and the first that does again.
    """

    since: tuple[int, ...]
    gap: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def includes(self, version: str) -> bool:
        """Whether ``version`` (``10.3.0``) is among them; true if it cannot be read."""
        found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
        if found is None:
            return True
        number = tuple(int(part or 0) for part in found.groups())
        return self.since <= number and (self.gap is None or not self.gap[0] <= number < self.gap[1])

    def __str__(self) -> str:
        first = _dotted(self.since)
        if self.gap is None:
            return f"{first} and newer"
        major, *minor = self.gap[0]
        last = f"{major}.{minor[0] - 1}" if minor else f"{major - 1}.x"
        return f"{first} to {last}, {_dotted(self.gap[1])} and newer"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@dataclass(frozen=True)
class Target:
    """One compute capability.

    Attributes:
        name: ``sm`` and the capability's digits, for example ``sm89``.
        family: the architecture's name.
        aliases: product names accepted on the command line.
        tensorrt: the versions of TensorRT that build for it.
        rtx: the versions of TensorRT-RTX that build for it without the GPU at hand; ``None``: none does.
        dla: whether modules with it may have a Deep Learning Accelerator beside the GPU.
    """

    name: str
    family: str
    aliases: tuple[str, ...]
    tensorrt: Support
    rtx: Support | None = None
    dla: bool = False

    @property
    def capability(self) -> tuple[int, int]:
        """(major, minor)."""
        digits = self.name.removeprefix("sm")
        return int(digits[:-1]), int(digits[-1])

    @property
    def formats(self) -> tuple[Format, ...]:
        """What its tensor cores and TensorRT compute in besides float32."""
        return tuple(form for form in FORMATS if form is not FP32 and form.capability <= self.capability)

    def computes(self, precision: Precision) -> bool:
        """Whether it computes in all that ``precision`` lowers a graph to."""
        return all(form.capability <= self.capability for form in precision.formats)

    def __str__(self) -> str:
        return self.name


#: When the table below was last compared with its sources.
TABLE_DATE = "2026-11-30"
#: The oldest TensorRT that trtpipe speaks to, and the oldest TensorRT-RTX it was tried with.
_TRT = Support((10, 3))
_RTX = Support((1, 5))
#: TensorRT 11.0 to 11.4.0 had neither JetPack nor DLA; 11.4.1 supports JetPack 7.2.2 and later on AGX Orin and Thor,
#: and the DLA of AGX Orin (its release notes).
WITHOUT_JETPACK = (11,), (11, 4, 1)
#: The versions of TensorRT with DLA: 10.7 was the last of the 10.x, and 11.4.1 has it again on AGX Orin ("Working with
#: DLA", TensorRT 11.4.1).
DLA = Support((10, 3), ((10, 8), (11, 4, 1)))

TARGETS: tuple[Target, ...] = (
    Target("sm75", "Turing", ("t4", "rtx2060", "rtx2070", "rtx2080", "rtx2080ti"), _TRT, _RTX),
    Target("sm80", "Ampere", ("a100", "a30"), _TRT, _RTX),
    Target(
        "sm86",
        "Ampere",
        ("a10", "a40", "a16", "a2", "rtx3050", "rtx3060", "rtx3070", "rtx3080", "rtx3090", "rtxa6000"),
        _TRT,
        _RTX,
    ),
    Target(
        "sm87",
        "Ampere",
        ("orin", "agx-orin", "orin-nx", "orin-nano"),
        Support((10, 3), WITHOUT_JETPACK),
        dla=True,
    ),
    Target(
        "sm89",
        "Ada",
        ("l4", "l40", "l40s", "rtx4050", "rtx4060", "rtx4070", "rtx4080", "rtx4090", "rtx6000ada"),
        _TRT,
        _RTX,
    ),
    Target("sm90", "Hopper", ("h100", "h200", "h20", "gh200"), _TRT),
    Target("sm100", "Blackwell", ("b200", "gb200"), Support((10, 8))),
    Target("sm103", "Blackwell", ("b300", "gb300"), Support((10, 14))),
    # CUDA 12 called it 10.1, CUDA 13 calls it 11.0.
    Target("sm110", "Blackwell", ("thor", "agx-thor", "sm101"), Support((10, 13), WITHOUT_JETPACK)),
    Target(
        "sm120",
        "Blackwell",
        ("rtx5050", "rtx5060", "rtx5070", "rtx5080", "rtx5090", "rtxpro6000"),
        Support((10, 8)),
        _RTX,
    ),
    Target("sm121", "Blackwell", ("gb10", "dgx-spark"), Support((10, 14)), _RTX),
)


def _plain(name: str) -> str:
    """A name as it is compared: lower case, no blanks, dashes or underscores."""
    return re.sub(r"[\s_-]", "", name.lower())


def find_target(text: str) -> Target:
    """The target named ``sm89``, ``8.9`` or by a product (``rtx4090``); case, spaces, ``-`` and ``_`` do not matter.

    Raises:
        InputError: no such target; the remedy suggests the nearest name.

    Example:
        >>> trtpipe.find_target("RTX 4090").name
        'sm89'
    """
    if not isinstance(text, str):
        raise InputError(f"text: {text!r} is no name of a GPU", 'give a str such as "sm89", "8.9" or "rtx4090"')
    word = _plain(text)
    if version := re.fullmatch(r"(\d+)\.(\d)", word):
        word = f"sm{version[1]}{version[2]}"
    named = {_plain(name): (name, target) for target in TARGETS for name in (target.name, *target.aliases)}
    if word in named:
        return named[word][1]
    near = [named[name][0] for name in get_close_matches(word, named, n=1, cutoff=0.5)]
    known = ", ".join(target.name for target in TARGETS)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"unknown target {text!r}", f"{hint}targets: {known}, or a product name")
