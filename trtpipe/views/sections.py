"""What ``inspect`` shows of each kind of record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.views import calibration, engines, models, outcomes, timings
from trtpipe.views.blocks import SOME, Block, facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.api.inspection import Inspection


def sections(found: Inspection, *, detailed: bool) -> Iterator[Block]:
    """Every section that is there.

    Args:
        detailed: long lists in full.
    """
    limit = None if detailed else SOME
    if found.graph is not None:
        yield from models.graph(found.graph, limit)
    if found.program is not None:
        yield from models.program(found.program, limit)
    if found.captured is not None:
        yield models.captured(found.captured)
    if found.exported is not None:
        yield from models.exported(found.exported)
    if found.simplified is not None:
        yield from models.simplified(found.simplified)
    if found.lowered is not None:
        yield from models.lowered(found.lowered, limit)
    if found.plan is not None:
        yield engines.plan(found.plan, found.obstacles)
    if found.engine is not None:
        yield from engines.engine(found.engine, limit)
    if found.stand_in is not None:
        yield facts([("flavor", "null: a stand-in for tests, no engine"), ("target", found.stand_in.target)])
    if found.ranges is not None:
        yield from calibration.ranges(found.ranges, limit)
    if found.statistics is not None:
        yield from calibration.statistics(found.statistics, limit)
    yield from _reports(found)


def _reports(found: Inspection) -> Iterator[Block]:
    if found.parity is not None:
        yield from outcomes.parity(found.parity)
    if found.latency is not None:
        yield from timings.latency(found.latency)
    if found.comparison is not None:
        yield from timings.comparison(found.comparison)
    if found.manifest is not None:
        yield from outcomes.manifest(found.manifest)
