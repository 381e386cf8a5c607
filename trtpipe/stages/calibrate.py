"""calibrate: statistics -> ``ranges.json``: ranges, and corrections of the quantized model.

The method ``auto`` and the corrections run the model on some samples again; without data there are no corrections.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.stage_settings import CalibrateSettings, GateSettings, NotNeeded, trial_settings
from trtpipe.errors import Cancelled, InputError, OutOfMemory, OutOfTime, StageError
from trtpipe.stages.stage import Stage

if TYPE_CHECKING:
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import BuildRequest, TrialSettings
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

RANGES = "ranges.json"


class Calibrate(Stage[CalibrateSettings]):
    """Chooses every tensor's range by the method asked for."""

    name = "calibrate"
    produces = "ranges"
    version = 14
    packages = ("numpy", "onnx-ir", "onnxruntime")

    def settings(self, request: BuildRequest) -> CalibrateSettings | NotNeeded:
        precision, recipe = request.profile.precision, request.recipe
        if not precision.calibrated:
            return NotNeeded(reason=f"{precision} needs no ranges")
        corrections = recipe.corrections == "auto" and bool(recipe.data.source)  # only on real data
        quick = load_backend(request.backend).quick_reports
        return CalibrateSettings(
            format=precision.quantized_format,
            method=recipe.method,
            percentile=recipe.percentile if recipe.method == "percentile" else None,
            gate=GateSettings.of(request.profile) if corrections else None,
            trials=trial_settings(request, quick=quick) if corrections or recipe.method == "auto" else None,
        )

    def consumes(self, settings: CalibrateSettings) -> tuple[str, ...]:
        return ("statistics",) if settings.trials is None else ("statistics", "simplified", "calibration-data")

    def fingerprint(self, settings: CalibrateSettings, runtime: Settings) -> dict[str, str]:
        return {} if settings.trials is None else load_backend("onnxruntime").fingerprint(runtime)

    def run(
        self, settings: CalibrateSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> tuple[Draft, tuple[Path, ...]]:
        from trtpipe.calibration.ranges import ranges_from_statistics
        from trtpipe.calibration.statistics_file import load_statistics

        statistics = load_statistics(inputs.path("statistics"))
        if settings.trials is None:
            assert settings.method != "auto"
            ranges = ranges_from_statistics(statistics, settings.method, settings.percentile or 100.0, settings.format)
        else:
            ranges = _without_failed_corrections(
                settings, settings.trials, inputs, statistics, workdir, runtime, progress
            )
        ranges.write(workdir / RANGES)
        return Draft("ranges", workdir, (RANGES,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        from trtpipe.calibration.ranges import Ranges

        for name, found in Ranges.read(draft.path).tensors.items():
            if not 0 <= found.amax < float("inf"):
                raise StageError(f"{RANGES}: tensor {name!r} has range {found.amax}", "look at the calibration data")


def _without_failed_corrections(
    settings: CalibrateSettings,
    trials: TrialSettings,
    inputs: Inputs,
    statistics: Statistics,
    workdir: Path,
    runtime: Settings,
    progress: Progress,
) -> Ranges:
    """As ``_tried``; corrections that fail on this model are left out, with the reason in the result.

    A limit of the machine is no property of the model, and is raised: what is stored may not depend on it.
    """
    try:
        return _tried(settings, trials, inputs, statistics, workdir, runtime, progress)
    except (OutOfTime, OutOfMemory, Cancelled):
        raise
    except StageError as error:
        if settings.gate is None:
            raise
        plain = settings.model_copy(update={"gate": None})
        ranges = _tried(plain, trials, inputs, statistics, workdir, runtime, progress)
        progress.warn(f"corrections failed and are left out: {error.message}")
        return ranges.model_copy(update={"corrections_failed": error.message})


def _tried(
    settings: CalibrateSettings,
    trials: TrialSettings,
    inputs: Inputs,
    statistics: Statistics,
    workdir: Path,
    runtime: Settings,
    progress: Progress,
) -> Ranges:
    """Ranges and corrections, as far as they need the quantized model to be run."""
    from trtpipe.calibration.ranges import ranges_from_statistics
    from trtpipe.data.dataset import unbatched
    from trtpipe.quantization.correction_search import find_corrections, with_smoothable
    from trtpipe.quantization.fallback_search import find_fallback
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import plan
    from trtpipe.quantization.range_search import evaluating, search_ranges

    graph = CountedGraph(inputs.path("simplified"), trials.quantization.shapes, runtime)
    whole = plan(graph.load(), trials.quantization)
    given, tolerant = inputs.datasets.get("calibration-data"), trials.tolerant
    dataset = None if given is None else unbatched(given)
    if settings.method != "auto":
        ranges = ranges_from_statistics(statistics, settings.method, settings.percentile or 100.0, settings.format)
    elif dataset is None:
        raise InputError(
            "method auto chooses ranges by the model's output on real samples, and no data was given",
            "add --data, or choose another method, for example --method mse",
        )
    else:
        with evaluating(whole, graph, statistics, dataset, workdir, tolerant=tolerant) as evaluate:
            ranges = search_ranges(statistics, evaluate, settings.format, progress)
    gate = settings.gate
    if gate is None or dataset is None or not ranges.tensors:
        return ranges
    for candidate in with_smoothable(whole, graph, ranges, statistics):
        corrected = whole.calibrated(candidate)
        found = find_corrections(corrected, graph, candidate, dataset, workdir, progress, gate, tolerant=tolerant)
        if candidate is ranges or found.fits(candidate.tensors.keys() - ranges.tensors.keys()):
            ranges = candidate
            break
    corrected = corrected.with_corrections(found.corrections)
    corrections = find_fallback(corrected, graph, found, gate, workdir, progress)
    return ranges.model_copy(update={"corrections": corrections})
