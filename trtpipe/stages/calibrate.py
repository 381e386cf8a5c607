"""calibrate: statistics -> ``ranges.json``: ranges, and corrections of the quantized model.

The method ``auto`` and the corrections run the model on some samples again; without data there are no corrections.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.stage_settings import CalibrateSettings, GateSettings, trial_settings
from trtpipe.errors import Cancelled, InputError, OutOfMemory, OutOfTime, StageError
from trtpipe.stages.stage import Noting, Stage

if TYPE_CHECKING:
    from trtpipe.artifact import Artifact
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import TrialSettings
    from trtpipe.data.sample import Dataset
    from trtpipe.progress import Progress
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan
    from trtpipe.stages.stage import Inputs

RANGES = "ranges.json"


class Calibrate(Stage[CalibrateSettings], Noting):
    """Chooses every tensor's range by the method asked for."""

    name = "calibrate"
    produces = "ranges"
    version = 18
    packages = ("numpy", "onnx", "onnx-ir", "onnxruntime")

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
    ) -> Draft:
        from trtpipe.calibration.ranges import ranges_from_statistics
        from trtpipe.calibration.statistics_file import load_statistics

        statistics = load_statistics(inputs.path("statistics"))
        if settings.trials is None:
            assert settings.method != "auto"
            ranges = ranges_from_statistics(statistics, settings.method, settings.percentile or 100.0, settings.format)
        else:
            work = _Trials(settings, settings.trials, inputs, statistics, workdir, runtime, progress)
            ranges = work.with_what_succeeds()
        ranges.write(workdir / RANGES)
        return Draft("ranges", workdir, (RANGES,))

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """That corrections failed."""
        from trtpipe.calibration.ranges import Ranges

        reason = Ranges.read(artifact.path).corrections_failed
        return (f"corrections failed and are left out: {reason}",) if reason else ()

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        from trtpipe.calibration.ranges import Ranges

        ranges = Ranges.read(draft.path)
        for name, found in ranges.tensors.items():
            if not 0 <= found.amax < float("inf"):
                raise StageError(f"{RANGES}: tensor {name!r} has range {found.amax}", "look at the calibration data")
        if ranges.tensors and not any(found.amax for found in ranges.tensors.values()):
            data = ranges.data_summary.source if ranges.data_summary is not None else RANGES
            raise InputError(
                f"{data}: all that could be quantized was 0 in all samples, such as {next(iter(ranges.tensors))!r}",
                "give samples as the model gets them in use",
            )


@dataclass(frozen=True)
class _Trials:
    """Ranges and corrections, as far as they need the quantized model to be run."""

    settings: CalibrateSettings
    trials: TrialSettings
    inputs: Inputs
    statistics: Statistics
    workdir: Path
    runtime: Settings
    progress: Progress

    def with_what_succeeds(self) -> Ranges:
        """As ``run``; corrections that fail on this model are left out, with the reason in the result.

        A limit of the machine is no property of the model, and is raised: what is stored may not depend on it.
        """
        try:
            return self.run()
        except (OutOfTime, OutOfMemory, Cancelled):
            raise
        except StageError as error:
            if self.settings.gate is None:
                raise
            ranges = replace(self, settings=self.settings.model_copy(update={"gate": None})).run()
            return ranges.model_copy(update={"corrections_failed": error.message})

    def run(self) -> Ranges:
        """Ranges by the method, then corrections, then what is kept in higher precision."""
        with TemporaryDirectory(dir=self.workdir) as folder:
            return self._in(Path(folder))

    def _in(self, folder: Path) -> Ranges:
        """As ``run``; graphs that are tried lie in ``folder`` meanwhile."""
        from trtpipe.data.dataset import unbatched
        from trtpipe.quantization.correction_search import find_corrections, with_smoothable
        from trtpipe.quantization.fallback_search import find_fallback
        from trtpipe.quantization.mac_count import CountedGraph
        from trtpipe.quantization.plan import plan

        graph = CountedGraph(self.inputs.path("simplified"), self.trials.quantization.shapes, self.runtime, folder)
        whole = plan(graph.load(), self.trials.quantization)
        given = self.inputs.datasets.get("calibration-data")
        dataset = None if given is None else unbatched(given)
        ranges = self._ranges(whole, graph, dataset, folder)
        gate = self.settings.gate
        if gate is None or dataset is None or not ranges.tensors:
            return ranges
        for candidate in with_smoothable(whole, graph, ranges, self.statistics):
            corrected = whole.calibrated(candidate)
            found = find_corrections(
                corrected, graph, candidate, self.statistics, dataset, folder, self.progress, gate,
                tolerant=self.trials.tolerant,
            )  # fmt: skip
            if candidate is ranges or found.fits(candidate.tensors.keys() - ranges.tensors.keys()):
                ranges = candidate
                break
        corrected = corrected.with_corrections(found.corrections)
        corrections = find_fallback(corrected, graph, found, gate, folder, self.progress)
        return ranges.model_copy(update={"corrections": corrections})

    def _ranges(self, whole: QuantizationPlan, graph: CountedGraph, dataset: Dataset | None, folder: Path) -> Ranges:
        from trtpipe.calibration.ranges import ranges_from_statistics
        from trtpipe.quantization.range_search import evaluating, search_ranges

        settings, statistics = self.settings, self.statistics
        if settings.method != "auto":
            return ranges_from_statistics(statistics, settings.method, settings.percentile or 100.0, settings.format)
        if dataset is None:
            raise InputError(
                "method auto chooses ranges by the model's output on real samples, and no data was given",
                "add --data, or choose another method, for example --method mse",
            )
        with evaluating(whole, graph, statistics, dataset, folder, tolerant=self.trials.tolerant) as evaluate:
            return search_ranges(statistics, evaluate, settings.format, self.progress)
