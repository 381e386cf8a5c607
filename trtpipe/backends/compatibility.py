"""Whether an engine agrees with its record, and runs on this machine: from its header, without loading it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.backends.base import Refusal, missing
from trtpipe.backends.gpu import cannot_run
from trtpipe.config.target import find_target
from trtpipe.config.toolchain import version

if TYPE_CHECKING:
    from trtpipe.backends.engine_file import PlanHeader
    from trtpipe.engine.record import EngineRecord

#: Parts of a version that must agree; builds of one release may differ.
_RELEASE = 3


def contradictions(header: PlanHeader, record: EngineRecord | None, sha256: str) -> tuple[str, ...]:
    """What is wrong with a plan: it is truncated, or its record belongs to another one.

    Args:
        sha256: of the plan.
    """
    found = []
    if header.size_ok is False:
        found.append("the file is not as long as its header says: it is truncated")
    if record is not None and record.flavor != header.flavor:
        found.append(f"its record says {record.flavor}, the engine is of {header.flavor}")
    if record is not None and header.targets is not None and record.target not in header.targets:
        found.append(f"its record says {record.target}, the engine is for {', '.join(header.targets)}")
    if record is not None and record.digests.get("plan", sha256) != sha256:
        found.append("its content is not that of the engine in its record: the digests differ")
    return tuple(found)


def obstacles(header: PlanHeader, record: EngineRecord | None) -> tuple[Refusal, ...]:
    """Why the engine cannot run on this machine, as far as is known without loading it; most important first."""
    here, found = version(header.flavor), []
    if (absent := missing(header.flavor)) is not None:
        found.append(absent)
    elif here is not None and not accepts(here, header.version, compatible=_is_compatible(record)):
        found.append(
            Refusal(
                f"{header.flavor} {header.version} built it, {here} is installed: an engine runs on the release "
                "that built it",
                f"build it again here, or pip install '{header.flavor}=={'.'.join(_release(header.version))}.*'",
            )
        )
    names = (record.target,) if record is not None else header.targets or ()
    refusals = [cannot_run(find_target(name)) for name in names]
    if refusals and refusals[0] is not None and None not in refusals and not header.and_later:
        found.append(refusals[0])
    return tuple(found)


def _is_compatible(record: EngineRecord | None) -> bool:
    return record is not None and record.options is not None and record.options.version_compatible


def accepts(here: str, built: str, *, compatible: bool) -> bool:
    """Whether release ``here`` runs an engine of ``built``: the same one, or, if version-compatible, a later one."""
    if _release(here) == _release(built):
        return True
    return compatible and _release(here)[:1] == _release(built)[:1] and _numbers(here) > _numbers(built)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _release(text) if part.isdigit())


def _release(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")[:_RELEASE])
