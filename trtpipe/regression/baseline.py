"""``baseline.json``: the record of a good build, small enough to be committed beside the model's code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from trtpipe.accuracy.consistency import require_consistent
from trtpipe.accuracy.reports import Comparison, MetricValue
from trtpipe.artifact import IOContract, PublicRecord, Record
from trtpipe.config.recipe import Preprocessing
from trtpipe.engine.record import EngineFigures
from trtpipe.errors import InputError
from trtpipe.latency.reports import LatencyReport
from trtpipe.report.manifest import Manifest, ManifestEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.regression.bundle import Build

_AGAIN = (
    "use the file as trtpipe wrote it, or save it again from a good build: trtpipe check BUILD --save-baseline FILE"
)


class Update(Record):
    """Why a baseline was replaced.

    Attributes:
        reason: as the user gave it.
        metrics: artifact -> metric of the replaced baseline.
    """

    reason: str
    metrics: dict[str, float]


class CalibrationData(Record):
    """What a build was calibrated on: the content of the data, and how files became inputs."""

    source: str
    digest: str
    preprocessing: Preprocessing | None = None


class Baseline(PublicRecord):
    """One good build.

    Attributes:
        contract: the model's inputs and outputs.
        graph: digest of the exported model's nodes; constants are in ``weights``.
        weights: name -> digest of every constant of the exported model.
        artifacts: digests, keys and sizes of all artifacts of the bundle.
        nodes: node -> what it computes in, of those that lowering decided on.
        settings, toolchain: those of the manifest.
        calibration: ``None`` where nothing was calibrated.
        data, data_digest, inputs_digest, labels_digest, preprocessing: those of the parity report.
        evaluation, evaluation_digest: likewise.
        comparisons: parity with the reference.
        engines: target -> engine metadata.
        latency: compared on the same machine only.
        history: earlier baselines that this one replaced, oldest first.
    """

    SCHEMA: ClassVar[int] = 4

    trtpipe: str
    precision: str
    contract: IOContract
    graph: str
    weights: dict[str, str]
    artifacts: tuple[ManifestEntry, ...]
    nodes: dict[str, str]
    settings: dict[str, Any]
    toolchain: dict[str, str]
    calibration: CalibrationData | None
    data: str
    data_digest: str
    inputs_digest: str
    labels_digest: str
    preprocessing: Preprocessing | None
    evaluation: str
    evaluation_digest: str = ""
    samples: int
    comparisons: tuple[Comparison, ...]
    metrics: tuple[MetricValue, ...]
    engines: dict[str, EngineFigures]
    latency: LatencyReport | None
    history: tuple[Update, ...] = ()


def calibration_data(manifest: Manifest) -> CalibrationData | None:
    """What a build was calibrated on."""
    data = manifest.calibration
    if data is None:
        return None
    return CalibrationData(source=data.source, digest=data.digest, preprocessing=data.preprocessing)


def baseline_of(build: Build, history: tuple[Update, ...] = ()) -> Baseline:
    """A build as a baseline.

    Raises:
        InputError: its outputs were not compared with anything.
    """
    manifest: Manifest = build.manifest
    parity = build.parity
    if parity is None:
        raise InputError(
            f"{build.folder}: nothing was compared in this build: {build.unverified}",
            "make a baseline of a build that was verified",
        )
    return Baseline(
        trtpipe=manifest.trtpipe,
        precision=manifest.precision,
        contract=build.contract,
        graph=build.graph,
        weights=build.weights,
        artifacts=manifest.artifacts,
        nodes=build.nodes,
        calibration=calibration_data(manifest),
        settings=manifest.settings,
        toolchain=manifest.toolchain,
        data=parity.data,
        data_digest=parity.data_digest,
        inputs_digest=parity.inputs_digest,
        labels_digest=parity.labels_digest,
        preprocessing=parity.preprocessing,
        evaluation=parity.evaluation,
        evaluation_digest=parity.evaluation_digest,
        samples=parity.samples,
        comparisons=parity.comparisons,
        metrics=parity.metrics,
        engines=build.engines,
        latency=build.latency,
        history=history,
    )


def require_sound(baseline: Baseline, name: str) -> None:
    """Raise InputError, naming the field, unless a baseline is what ``save_baseline`` may have written.

    Args:
        name: of its file, for messages.
    """
    require_consistent(name, baseline.metrics, baseline.comparisons, baseline.evaluation, baseline.samples)
    for field, problem in (*_of_metrics(baseline), *_of_engines(baseline)):
        raise InputError(f"{name}: {field}: {problem}", _AGAIN)


def _of_metrics(baseline: Baseline) -> Iterator[tuple[str, str]]:
    for value in baseline.metrics[:1]:  # the reference's: its build had passed
        if value.guessed:
            yield f"metrics: {value.artifact}: chance", f"{value.chance:g}, so that {value.value:g} is no good build's"


def _of_engines(baseline: Baseline) -> Iterator[tuple[str, str]]:
    for target, figures in baseline.engines.items():
        for field, figure in figures.to_dict().items():
            counts = figure.values() if isinstance(figure, dict) else [figure]
            if any(isinstance(count, int) and count < 0 for count in counts):
                yield f"engines: {target}: {field}", "is negative"
