"""``baseline.json``: the record of a good build, small enough to be committed beside the model's code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from trtpipe.accuracy.reports import Comparison, MetricValue
from trtpipe.artifact import IOContract, Record
from trtpipe.engine.record import EngineFigures
from trtpipe.latency.reports import LatencyReport
from trtpipe.report.manifest import Manifest, ManifestEntry

if TYPE_CHECKING:
    from trtpipe.regression.bundle import Build


class Update(Record):
    """Why a baseline was replaced.

    Attributes:
        reason: as the user gave it.
        metrics: artifact -> metric of the replaced baseline.
    """

    reason: str
    metrics: dict[str, float]


class Baseline(Record):
    """One good build.

    Attributes:
        contract: the model's inputs and outputs.
        weights: name -> digest of every constant of the exported model.
        artifacts: digests, keys and sizes of all artifacts of the bundle.
        settings, toolchain: those of the manifest.
        evaluation, evaluation_digest: those of the parity report.
        comparisons: parity with the reference.
        engines: target -> engine metadata.
        latency: compared on the same machine only.
        history: earlier baselines that this one replaced, oldest first.
    """

    schema_version: Literal[1] = 1
    trtpipe: str
    precision: str
    contract: IOContract
    weights: dict[str, str]
    artifacts: tuple[ManifestEntry, ...]
    settings: dict[str, Any]
    toolchain: dict[str, str]
    data: str
    data_digest: str
    evaluation: str
    evaluation_digest: str = ""
    samples: int
    comparisons: tuple[Comparison, ...]
    metrics: tuple[MetricValue, ...]
    engines: dict[str, EngineFigures]
    latency: LatencyReport | None
    history: tuple[Update, ...] = ()


def baseline_of(build: Build, history: tuple[Update, ...] = ()) -> Baseline:
    """A build as a baseline."""
    manifest: Manifest = build.manifest
    parity = build.parity
    return Baseline(
        trtpipe=manifest.trtpipe,
        precision=manifest.precision,
        contract=build.contract,
        weights=build.weights,
        artifacts=manifest.artifacts,
        settings=manifest.settings,
        toolchain=manifest.toolchain,
        data=parity.data,
        data_digest=parity.data_digest,
        evaluation=parity.evaluation,
        evaluation_digest=parity.evaluation_digest,
        samples=parity.samples,
        comparisons=parity.comparisons,
        metrics=parity.metrics,
        engines=build.engines,
        latency=build.latency,
        history=history,
    )
