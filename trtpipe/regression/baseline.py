"""What a good build looked like: ``baseline.json``, small enough to be committed beside the model's code."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

from trtpipe.accuracy.reports import Comparison, MetricValue
from trtpipe.artifact import IOContract, Record
from trtpipe.engine.record import EngineFigures
from trtpipe.latency.reports import LatencyReport
from trtpipe.report.manifest import Manifest, ManifestEntry

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.regression.bundle import Build


class Update(Record):
    """Why a baseline was replaced.

    Attributes:
        reason: in the words of who did it.
        metrics: what the metrics were before, by artifact.
    """

    reason: str
    metrics: dict[str, float]


class Baseline(Record):
    """One good build.

    Attributes:
        contract: the model's inputs and outputs.
        weights: name -> digest of every constant of the exported model.
        artifacts: digests, keys and sizes of everything in the bundle.
        settings, toolchain: as the manifest has them.
        evaluation, evaluation_digest: as the parity report has them.
        comparisons: parity with the reference.
        engines: what the builders said, by target.
        latency: how fast it was; compared on the same machine only.
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


def weight_digests(model: Path) -> dict[str, str]:
    """Name -> digest (16 hex digits) of every constant, those of bodies included."""
    from trtpipe.preflight.onnx_io import load_model

    found: dict[str, str] = {}
    loaded = load_model(model)
    for graph in (loaded.graph, *loaded.graph.subgraphs()):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                array = value.const_value.numpy()
                head = f"{array.dtype.name}{array.shape}".encode()
                found[str(name)] = hashlib.sha256(head + array.tobytes()).hexdigest()[:16]
    return found
