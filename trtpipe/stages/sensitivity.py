"""sensitivity: the simplified graph and ranges -> ``sensitivity.json``: how much each group of layers harms.

Not on the way to an engine: it is asked for, by ``trtpipe sensitivity`` and ``trtpipe tune``, and kept like any result.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.formats import FP16
from trtpipe.config.stage_settings import QuantizationSettings
from trtpipe.errors import InputError, StageError
from trtpipe.quantization.group_noise import noise_alone, noise_of
from trtpipe.quantization.simulator import switchboard
from trtpipe.reference.reference_outputs import exact_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.artifact import Feed
    from trtpipe.config.job import Job
    from trtpipe.digest import JSON
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

SENSITIVITY = "sensitivity.json"
#: Bytes of feeds that are held at most.
_FEED_BYTES = 256 << 20


class Sensitivity:
    """Lowers every group alone, and all together, and compares outputs with the float32 graph's.

    Args:
        samples: feeds at most, evenly spread over the data.
        half: whether float16 is tried as well.
    """

    name = "sensitivity"
    produces = "sensitivity"
    version = 4
    packages = ("onnxruntime", "numpy", "onnx-ir", "onnx")

    def __init__(self, samples: int = 64, *, half: bool = False) -> None:
        self._samples = samples
        self._half = half

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The graph, its ranges, and samples."""
        return ("simplified", "ranges", "calibration-data")

    def skip(self, job: Job) -> str | None:
        """Only 8-bit precisions have something to choose."""
        precision = job.profile.precision
        return None if precision.quantized else f"{precision} is not chosen layer by layer"

    def key(self, job: Job) -> JSON:
        """The precision, what stays high anyway, how far weights reach, and how many samples."""
        return {
            "precision": job.profile.precision,
            "keep": list(job.profile.keep),
            "int8_nodes": list(job.profile.int8_nodes) if job.profile.precision.mixed else None,
            "weights": job.recipe.weights,
            "samples": self._samples,
            "half": self._half,
            "shapes": {name: list(shape) for name, shape in job.opt_shapes.items()},
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The runner."""
        return load_backend("onnxruntime").fingerprint(job.settings)

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """One run of every sample for each group."""
        from trtpipe.calibration.ranges import Ranges
        from trtpipe.quantization.output_noise import OutputNoise
        from trtpipe.quantization.sensitivity import GroupSensitivity
        from trtpipe.quantization.sensitivity import Sensitivity as Report

        simplified, ranges = inputs.path("simplified"), Ranges.read(inputs.path("ranges"))
        dataset, settings = inputs.datasets.get("calibration-data"), QuantizationSettings.of(job)
        assert settings is not None
        if dataset is None:
            raise InputError("sensitivity is judged on real samples, and no data was given", "add --calib-data DATA")
        feeds, expected = exact_outputs(
            simplified,
            dataset,
            self._samples,
            _FEED_BYTES,
            workdir,
            job.settings,
            tolerant=job.recipe.data.skip_bad_samples > 0,
            stack=True,
        )
        measure = OutputNoise(expected)
        if not measure.telling:
            raise InputError(
                "sensitivity is judged by the model's float outputs, and it has none that differ from 0",
                "give another model, or data that reaches its outputs",
            )
        eight = job.profile.precision.quantized_format
        board = switchboard(settings, simplified, ranges, eight, workdir, job.settings)
        if not board.groups:
            raise StageError(
                "no node of this model can be lowered, so there is nothing to choose", "see trtpipe inspect"
            )
        with board.open() as desk:
            noise = noise_alone(desk, measure, feeds, progress, "sensitivity")
            everything = float(noise_of(desk, range(len(board.groups)), measure, feeds).mean())
        half: Sequence[float | None] = [None] * len(noise)
        if self._half:
            second = switchboard(settings, simplified, ranges, FP16, workdir, job.settings)
            with second.open() as desk:
                half = noise_alone(desk, measure, feeds, progress, f"sensitivity in {FP16}")
        board.close()
        report = Report(
            precision=job.profile.precision,
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
                for group, alone, in_half in zip(board.groups, noise, half, strict=True)
            ),
            all_noise=everything,
            never=board.never,
        )
        report.write(workdir / SENSITIVITY)
        return Draft("sensitivity", workdir, (SENSITIVITY,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """There is at least one group."""
        from trtpipe.quantization.sensitivity import Sensitivity as Report

        if not Report.read(draft.path).groups:
            raise StageError("there is nothing to choose", "see trtpipe inspect")


def _rows(feed: Feed) -> int:
    return min((value.shape[0] for value in feed.values() if value.ndim), default=1)
