"""calibrate: statistics -> ``ranges.json``: ranges, and corrections of the quantized model.

The method ``auto`` and the corrections run the model on some samples again; without data there are no corrections.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.stage_settings import QuantizationSettings
from trtpipe.errors import InputError, StageError

if TYPE_CHECKING:
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.job import Job
    from trtpipe.digest import JSON
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

RANGES = "ranges.json"


class Calibrate:
    """Chooses every tensor's range by the method asked for."""

    name = "calibrate"
    produces = "ranges"
    version = 10
    packages = ("numpy", "onnx-ir", "onnxruntime")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The statistics; for what judges by the outputs also the graph and samples."""
        return ("statistics", "simplified", "calibration-data") if _judges(job) else ("statistics",)

    def skip(self, job: Job) -> str | None:
        """Only 8-bit precisions need ranges."""
        precision = job.profile.precision
        return None if precision.calibrated else f"{precision} needs no ranges"

    def key(self, job: Job) -> JSON:
        """The method with what it depends on."""
        recipe = job.recipe
        judges = _judges(job)
        return {
            "method": recipe.method,
            "percentile": recipe.percentile if recipe.method == "percentile" else None,
            "precision": job.profile.precision.quantized_format.name,
            "weights": recipe.weights if judges else None,
            "keep": list(job.profile.keep) if judges else None,
            "skip_bad_samples": recipe.data.skip_bad_samples if judges else None,
            "corrections": _corrections(job),
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The runner that judges, where one does."""
        return load_backend("onnxruntime").fingerprint(job.settings) if _judges(job) else {}

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Derive the ranges."""
        from trtpipe.calibration.statistics_file import load_statistics
        from trtpipe.quantization.correction_search import find_corrections
        from trtpipe.quantization.fallback_search import rescue

        statistics = load_statistics(inputs.path("statistics"))
        ranges = _ranges(job, inputs, statistics, workdir, progress)
        dataset = inputs.datasets.get("calibration-data")
        settings = QuantizationSettings.of(job)
        if _corrections(job) and dataset is not None and ranges.tensors and settings is not None:
            simplified, tolerant = inputs.path("simplified"), job.recipe.data.skip_bad_samples > 0
            corrections = find_corrections(
                settings, simplified, ranges, dataset, workdir, job.settings, progress, tolerant=tolerant
            )
            ranges = ranges.model_copy(update={"corrections": corrections})
            corrections = rescue(
                settings, simplified, ranges, dataset, workdir, job.settings, progress, tolerant=tolerant
            )
            ranges = ranges.model_copy(update={"corrections": corrections})
        ranges.write(workdir / RANGES)
        return Draft("ranges", workdir, (RANGES,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """Every range is a finite number."""
        from trtpipe.calibration.ranges import Ranges

        for name, found in Ranges.read(draft.path).tensors.items():
            if not 0 <= found.amax < float("inf"):
                raise StageError(f"{RANGES}: tensor {name!r} has range {found.amax}", "look at the calibration data")


def _corrections(job: Job) -> bool:
    """Whether corrections are looked for: only on real data."""
    return job.recipe.corrections == "auto" and bool(job.recipe.data.source)


def _judges(job: Job) -> bool:
    return job.recipe.method == "auto" or _corrections(job)


def _ranges(job: Job, inputs: Inputs, statistics: Statistics, workdir: Path, progress: Progress) -> Ranges:
    from trtpipe.calibration.ranges import derive_ranges
    from trtpipe.quantization.evaluator import judging
    from trtpipe.quantization.range_search import search_ranges

    precision = job.profile.precision.quantized_format
    if job.recipe.method != "auto":
        return derive_ranges(statistics, job.recipe.method, job.recipe.percentile, precision)
    dataset = inputs.datasets.get("calibration-data")
    settings = QuantizationSettings.of(job)
    assert settings is not None
    if dataset is None:
        raise InputError(
            "method auto judges ranges by the model's output on real samples, and no data was given",
            "add --data, or choose another method, for example --method mse",
        )
    tolerant = job.recipe.data.skip_bad_samples > 0
    with judging(
        settings, inputs.path("simplified"), statistics, dataset, workdir, job.settings, tolerant=tolerant
    ) as judge:
        return search_ranges(statistics, judge, precision, progress)
