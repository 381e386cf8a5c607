"""Versions that NVIDIA's security bulletins ask for, above the floors of pyproject.toml: see SECURITY.md for why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.config.requirements import Requirement
from trtpipe.config.toolchain import version

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Advisory:
    """What one bulletin says of one package.

    Attributes:
        fixed: the first version without the fault.
        what: the faults, by number.
    """

    bulletin: str
    package: str
    fixed: str
    what: str


#: https://github.com/NVIDIA/product-security, as of July 2026. They do not mention TensorRT-RTX, and what they ask of
#: Polygraphy its floor has.
ADVISORIES = (
    Advisory("2026/5836", "tensorrt", "10.16.1", "CVE-2026-24188: write out of bounds"),
    Advisory(
        "2026/5855",
        "tensorrt",
        "11.0",
        "CVE-2026-24268, CVE-2026-24272, CVE-2026-24238 and CVE-2026-24227: heap overflows, an array index, "
        "deserialization of untrusted data",
    ),
)


def open_advisories(installed: Callable[[str], str | None] = version) -> tuple[str, ...]:
    """A sentence for every bulletin that asks for a later version of a package than is installed.

    Args:
        installed: the version of a package; ``None`` where it is not installed.
    """
    found = []
    for each in ADVISORIES:
        here = installed(each.package)
        if here is not None and not Requirement(each.package, each.fixed).allows(here):
            found.append(
                f"{each.package} {here}: NVIDIA's bulletin {each.bulletin} asks for {each.fixed} ({each.what}); until "
                "then build only models, and load only engines, that you trust"
            )
    return tuple(found)
