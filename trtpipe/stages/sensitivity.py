"""sensitivity: the simplified graph and ranges -> ``sensitivity.json``: the quantization sensitivity of layers.

Not on the way to an engine: it is asked for, by ``trtpipe sensitivity`` and ``trtpipe tune``, and kept like any result.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.formats import FP16
from trtpipe.config.stage_settings import SensitivitySettings, trial_settings
from trtpipe.errors import InputError, StageError
from trtpipe.reference.reference_outputs import exact_outputs
from trtpipe.stages.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.artifact import Feed
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

SENSITIVITY = "sensitivity.json"
#: Bytes of feeds that are held at most.
_FEED_BYTES = 256 << 20


class MeasureSensitivity(Stage[SensitivitySettings]):
    """Lowers every group alone, and all together, and compares outputs with the float32 graph's.

    Args:
        samples: feeds at most, evenly spread over the data.
        half: whether float16 is tried as well.
    """

    name = "sensitivity"
    produces = "sensitivity"
    version = 6
    packages = ("onnxruntime", "numpy", "onnx-ir", "onnx")

    def __init__(self, samples: int = 64, *, half: bool = False) -> None:
        self._samples = samples
        self._half = half

    def settings(self, request: BuildRequest) -> SensitivitySettings | NotNeeded:
        trials = trial_settings(request, quick=load_backend(request.backend).quick_reports)
        if trials is None:
            return NotNeeded(reason=f"{request.profile.precision} is not chosen layer by layer")
        return SensitivitySettings(trials=trials, samples=self._samples, half=self._half)

    def consumes(self, settings: SensitivitySettings) -> tuple[str, ...]:
        return ("simplified", "ranges", "calibration-data")

    def fingerprint(self, settings: SensitivitySettings, runtime: Settings) -> dict[str, str]:
        return load_backend("onnxruntime").fingerprint(runtime)

    def run(
        self, settings: SensitivitySettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.calibration.ranges import Ranges
        from trtpipe.quantization.mac_count import CountedGraph
        from trtpipe.quantization.output_noise import OutputNoise, noise_alone, noise_of
        from trtpipe.quantization.plan import plan
        from trtpipe.quantization.sensitivity import GroupSensitivity, Sensitivity
        from trtpipe.quantization.simulator import open_simulator

        simplified, ranges = inputs.path("simplified"), Ranges.read(inputs.path("ranges"))
        dataset, quantization = inputs.datasets.get("calibration-data"), settings.trials.quantization
        if dataset is None:
            raise InputError("sensitivity is measured on real samples, and no data was given", "add --calib-data DATA")
        tolerant = settings.trials.tolerant
        feeds, expected = exact_outputs(
            simplified, dataset, settings.samples, _FEED_BYTES, workdir, runtime, tolerant=tolerant, stack=True
        )
        measure = OutputNoise(expected)
        if not measure.informative:
            raise InputError(
                "sensitivity is measured by the model's float outputs, and it has none that differ from 0",
                "give another model, or data that reaches its outputs",
            )
        graph = CountedGraph(simplified, quantization.shapes, runtime)
        calibrated = plan(graph.load(), quantization).calibrated(ranges)
        with open_simulator(graph, calibrated, workdir) as session:
            groups, not_lowered = session.groups, session.not_lowered
            if not groups:
                raise StageError(
                    "no node of this model can be lowered, so there is nothing to choose", "see trtpipe inspect"
                )
            noise = noise_alone(session, measure, feeds, progress, "sensitivity")
            everything = float(noise_of(session, range(len(groups)), measure, feeds).mean())
        half: Sequence[float | None] = [None] * len(noise)
        if settings.half:
            with open_simulator(graph, calibrated, workdir, half=FP16) as session:
                half = noise_alone(session, measure, feeds, progress, f"sensitivity in {FP16}")
        report = Sensitivity(
            precision=quantization.precision,
            data=dataset.name,
            samples=sum(map(_rows, feeds)),
            groups=tuple(
                GroupSensitivity(
                    name=group.nodes[0],
                    nodes=group.nodes,
                    operators=group.operators,
                    macs=group.macs,
                    noise=alone,
                    half_noise=in_half,
                )
                for group, alone, in_half in zip(groups, noise, half, strict=True)
            ),
            all_noise=everything,
            not_lowered=not_lowered,
        )
        report.write(workdir / SENSITIVITY)
        return Draft("sensitivity", workdir, (SENSITIVITY,))

    def check(self, draft: Draft, inputs: Inputs) -> None:
        from trtpipe.quantization.sensitivity import Sensitivity

        if not Sensitivity.read(draft.path).groups:
            raise StageError("there is nothing to choose", "see trtpipe inspect")


def _rows(feed: Feed) -> int:
    return min((value.shape[0] for value in feed.values() if value.ndim), default=1)
