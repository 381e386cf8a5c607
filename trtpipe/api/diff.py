"""Two builds side by side: what differs in settings, versions, precision, ranges, sizes and figures."""

from __future__ import annotations

import math
import os

from trtpipe.api.remedies import explained
from trtpipe.artifact import PublicRecord, Record
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.paths import path_of
from trtpipe.regression.bundle import Build, entries, read_build
from trtpipe.regression.gate import differences
from trtpipe.report.manifest import ManifestEntry
from trtpipe.report.stage_records import LowerRecord
from trtpipe.summary import Summarized, Summary


class Both(Record):
    """One thing in both builds.

    Attributes:
        name: what.
        old, new: in A and in B; empty where it is missing.
    """

    name: str
    old: str
    new: str


class RangeMove(Record):
    """A tensor whose range moved.

    Attributes:
        old, new: amax in A and in B.
        octaves: log2(new / old): 1 where it doubled; infinite where one of them is 0.
    """

    tensor: str
    old: float
    new: float
    octaves: float


class BuildDiff(Summarized, PublicRecord):
    """What differs between two builds; equal things are left out.

    Attributes:
        settings, toolchain: ``key: old -> new``.
        weights: constants of the exported model that differ, came or went; ``weights_in_all`` of both.
        precisions: nodes that compute in another precision.
        counts: how many nodes compute in each precision.
        ranges: furthest first.
        sizes: bytes of artifacts; those with equal content are left out.
        metrics, parity, engines, latency: figures.
    """

    old: str
    new: str
    settings: tuple[str, ...]
    toolchain: tuple[str, ...]
    weights: tuple[str, ...]
    weights_in_all: int
    precisions: tuple[Both, ...]
    counts: tuple[Both, ...]
    ranges: tuple[RangeMove, ...]
    sizes: tuple[Both, ...]
    metrics: tuple[Both, ...]
    parity: tuple[Both, ...]
    engines: tuple[str, ...]
    latency: tuple[Both, ...]

    @property
    def summary(self) -> Summary:
        """How much differs, and the figures that do."""
        lists = {"settings": self.settings, "versions": self.toolchain, "weights": self.weights,
                 "precisions of nodes": self.precisions, "ranges": self.ranges}  # fmt: skip
        counts = ", ".join(f"{len(values)} {name}" for name, values in lists.items() if values)
        figures = (*self.metrics, *self.parity, *self.latency, *self.sizes, *self.precisions)
        rows = tuple((each.name, each.old, each.new) for each in figures)
        said = f"{self.old} against {self.new}: {counts or 'no setting'} differ"
        return Summary(said, ("what", "old", "new"), rows)


@explained
def diff(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> BuildDiff:
    """Compare two folders that ``build`` wrote; they may be of any two models and precisions.

    Args:
        old, new: the folders.

    Raises:
        InputError: one of them is no bundle, or was edited.

    Example:
        >>> [(node.name, node.old, node.new) for node in trtpipe.diff("old", "new").precisions]
        [('matmul_0 (MatMul)', 'int8', 'float32')]
    """
    a, b = read_build(path_of(old, "old")), read_build(path_of(new, "new"))
    return BuildDiff(
        old=str(old),
        new=str(new),
        settings=tuple(differences(_settings(a), _settings(b))),
        toolchain=tuple(differences(a.manifest.toolchain, b.manifest.toolchain)),
        weights=tuple(n for n in sorted(a.weights.keys() | b.weights.keys()) if a.weights.get(n) != b.weights.get(n)),
        weights_in_all=len(a.weights.keys() | b.weights.keys()),
        precisions=_differing(_nodes(a), _nodes(b)),
        counts=_differing(*({n: str(c) for n, c in _lowered(x).counts.items()} for x in (a, b))),
        ranges=_ranges(a, b),
        sizes=_sizes(a, b),
        metrics=_differing(_metrics(a), _metrics(b)),
        parity=_differing(_parity(a), _parity(b)),
        engines=tuple(differences(_engines(a), _engines(b))),
        latency=_differing(_latency(a), _latency(b)),
    )


def _settings(build: Build) -> dict[str, object]:
    return {"source": build.manifest.source, "backend": build.manifest.backend, **build.manifest.settings}


def _lowered(build: Build) -> LowerRecord:
    return LowerRecord.read(build.path("lowered").with_name(f"{build.path('lowered').name}.json"))


def _nodes(build: Build) -> dict[str, str]:
    return {f"{node.node} ({node.op})": node.precision for node in _lowered(build).nodes}


def _differing(old: dict[str, str], new: dict[str, str]) -> tuple[Both, ...]:
    """Entries that are not equal, in the order of ``old``, then those that ``new`` alone has."""
    names = dict.fromkeys([*old, *new])
    return tuple(
        Both(name=name, old=old.get(name, ""), new=new.get(name, ""))
        for name in names
        if old.get(name) != new.get(name)
    )


def _ranges(a: Build, b: Build) -> tuple[RangeMove, ...]:
    old, new = _amax(a), _amax(b)
    moves = [
        RangeMove(tensor=name, old=old[name], new=new[name], octaves=_octaves(old[name], new[name]))
        for name in old
        if name in new and old[name] != new[name]
    ]
    return tuple(sorted(moves, key=lambda move: (-abs(move.octaves), move.tensor)))


def _amax(build: Build) -> dict[str, float]:
    if "ranges" not in entries(build.manifest.artifacts):
        return {}
    return {name: found.amax for name, found in Ranges.read(build.path("ranges")).tensors.items()}


def _octaves(old: float, new: float) -> float:
    if not old or not new:
        return math.inf if new else -math.inf
    return math.log2(new / old)


def _sizes(a: Build, b: Build) -> tuple[Both, ...]:
    old, new = (entries(build.manifest.artifacts) for build in (a, b))
    kinds = [n for n in dict.fromkeys([*old, *new]) if n.startswith(("model", "simplified", "lowered", "engine"))]
    return tuple(
        Both(name=name, old=_bytes(old, name), new=_bytes(new, name))
        for name in kinds
        if (old[name].digest if name in old else None) != (new[name].digest if name in new else None)
    )


def _bytes(found: dict[str, ManifestEntry], name: str) -> str:
    return str(sum(file.size for file in found[name].files)) if name in found else ""


def _metrics(build: Build) -> dict[str, str]:
    found = () if build.parity is None else build.parity.metrics
    return {f"{value.metric} of {value.artifact}": f"{value.value:.4f}" for value in found}


def _parity(build: Build) -> dict[str, str]:
    comparisons = () if build.parity is None else build.parity.comparisons
    return {
        f"{comparison.artifact}, output {output.output}": (
            f"{output.snr_db:.2f} dB" if output.agreement is None else f"{output.agreement:.2%} equal"
        )
        for comparison in comparisons
        for output in comparison.outputs
    }


def _engines(build: Build) -> dict[str, object]:
    return {target: figures.model_dump() for target, figures in build.engines.items()}


def _latency(build: Build) -> dict[str, str]:
    found = () if build.latency is None else build.latency.measurements
    return {f"{each.artifact}, {each.on}, {each.runner}": f"{each.median:.3g} ms" for each in found}
