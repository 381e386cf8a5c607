"""GPU targets: a compute capability, the names people know it by, and what its tensor cores can do.

Sources: NVIDIA's compute-capability list (developer.nvidia.com/cuda-gpus) and the TensorRT and TensorRT-RTX support
matrices. Engines are built per capability; a product name is only an alias.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from trtpipe.errors import InputError


@dataclass(frozen=True)
class Target:
    """One compute capability.

    Attributes:
        name: ``sm`` and the capability's digits, for example ``sm89``.
        family: the architecture's name.
        aliases: product names accepted on the command line.
        dtypes: element types its tensor cores and TensorRT accept besides float32.
    """

    name: str
    family: str
    aliases: tuple[str, ...]
    dtypes: frozenset[str]

    @property
    def capability(self) -> tuple[int, int]:
        """(major, minor)."""
        digits = self.name.removeprefix("sm")
        return int(digits[:-1]), int(digits[-1])

    def __str__(self) -> str:
        return self.name


_TURING = frozenset({"float16", "int8"})
_AMPERE = _TURING | {"bfloat16", "int4"}
_ADA = _AMPERE | {"float8_e4m3fn"}
_BLACKWELL = _ADA | {"float4_e2m1"}

TARGETS: tuple[Target, ...] = (
    Target("sm75", "Turing", ("t4", "rtx2060", "rtx2070", "rtx2080", "rtx2080ti"), _TURING),
    Target("sm80", "Ampere", ("a100", "a30"), _AMPERE),
    Target("sm86", "Ampere", ("a10", "a40", "a16", "rtx3060", "rtx3070", "rtx3080", "rtx3090", "rtxa6000"), _AMPERE),
    Target("sm87", "Ampere", ("orin", "agx-orin", "orin-nx", "orin-nano"), _AMPERE),
    Target("sm89", "Ada", ("l4", "l40", "l40s", "rtx4060", "rtx4070", "rtx4080", "rtx4090"), _ADA),
    Target("sm90", "Hopper", ("h100", "h200", "gh200"), _ADA),
    Target("sm100", "Blackwell", ("b200", "gb200"), _BLACKWELL),
    Target("sm103", "Blackwell", ("b300", "gb300"), _BLACKWELL),
    Target("sm110", "Blackwell", ("thor", "agx-thor"), _BLACKWELL),
    Target("sm120", "Blackwell", ("rtx5060", "rtx5070", "rtx5080", "rtx5090", "rtxpro6000"), _BLACKWELL),
    Target("sm121", "Blackwell", ("gb10", "dgx-spark"), _BLACKWELL),
)


def _plain(name: str) -> str:
    """A name as it is compared: lower case, no blanks, dashes or underscores."""
    return re.sub(r"[\s_-]", "", name.lower())


def find_target(text: str) -> Target:
    """The target named ``sm89``, ``8.9`` or by a product (``rtx4090``); case, spaces, ``-`` and ``_`` do not matter.

    Raises:
        InputError: no such target; the remedy suggests the nearest name.
    """
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
