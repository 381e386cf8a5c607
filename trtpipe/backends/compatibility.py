"""Does an engine fit itself, and this machine? Answered from its header and sidecar, before anything loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.backends.base import Refusal, missing
from trtpipe.backends.gpu import cannot_run
from trtpipe.config.target import find_target
from trtpipe.config.toolchain import version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.backends.plan import PlanHeader
    from trtpipe.engine.record import EngineRecord

#: Parts of a version that have to agree; builds of one release may differ.
_RELEASE = 3


def contradictions(header: PlanHeader, facts: EngineRecord | None, sha256: str) -> tuple[str, ...]:
    """What is wrong with a plan by itself: it was cut short, or the file beside it is of another one.

    Args:
        sha256: of the plan.
    """
    return tuple(_contradictions(header, facts, sha256))


def obstacles(header: PlanHeader, facts: EngineRecord | None) -> tuple[Refusal, ...]:
    """Why the engine cannot run on this machine, as far as can be told without loading it; the first counts most."""
    return tuple(_obstacles(header, facts))


def _contradictions(header: PlanHeader, facts: EngineRecord | None, sha256: str) -> Iterator[str]:
    if header.size_ok is False:
        yield "the file is not as long as its header says: it was cut short"
    if facts is None:
        return
    if facts.flavor != header.flavor:
        yield f"the file beside it speaks of {facts.flavor}, the engine is of {header.flavor}"
    if header.targets is not None and facts.target not in header.targets:
        yield f"the file beside it says {facts.target}, the engine is for {', '.join(header.targets)}"
    if facts.digests.get("plan", sha256) != sha256:
        yield "its content is not that of the engine that the file beside it describes"


def _obstacles(header: PlanHeader, facts: EngineRecord | None) -> Iterator[Refusal]:
    if (absent := missing(header.flavor)) is not None:
        yield absent
    else:
        here = version(header.flavor)
        if here is not None and not _accepts(here, header.version, facts):
            yield Refusal(
                f"{header.flavor} {header.version} built it, {here} is installed: an engine runs on the release "
                "that built it",
                f"build it again here, or pip install '{header.flavor}=={'.'.join(_release(header.version))}.*'",
            )
    names = (facts.target,) if facts is not None else header.targets or ()
    refusals = [refusal for name in names if (refusal := cannot_run(find_target(name))) is not None]
    if refusals and len(refusals) == len(names) and not header.and_later:
        yield refusals[0]


def _accepts(here: str, built: str, facts: EngineRecord | None) -> bool:
    """Whether the release ``here`` runs what ``built`` made: the same, or, if asked for, a later one of its major."""
    if _release(here) == _release(built):
        return True
    compatible = facts is not None and facts.options is not None and facts.options.version_compatible
    return compatible and _release(here)[:1] == _release(built)[:1] and _numbers(here) > _numbers(built)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _release(text) if part.isdigit())


def _release(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")[:_RELEASE])
