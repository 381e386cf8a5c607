"""observe: ``simplified.onnx`` and real data -> ``statistics.npz``, in one pass; every method's ranges come from it.

For 16 bits ``tensor_ranges.json`` lies beside it: the extremes of every float32 tensor on a few samples.
A pass that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtpipe.artifact import Draft
from trtpipe.autocast.half_precision import TENSOR_RANGES
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.stage_settings import ObserveSettings
from trtpipe.data.dataset import unbatched
from trtpipe.data.selection import drawn_samples
from trtpipe.errors import InputError
from trtpipe.isolation.reducer import LocalReduction
from trtpipe.progress import track
from trtpipe.reference.reference_outputs import forget, opened, written
from trtpipe.stages.stage import Resumable, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.artifact import Artifact
    from trtpipe.autocast.range_probes import Probe
    from trtpipe.autocast.tensor_ranges import TensorRanges
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.data.sample import Dataset
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

STATISTICS = "statistics.npz"
OBSERVED = "observed.onnx"
#: Samples on which the extremes for 16 bits are taken. They need no more, because a tensor that comes within a factor
#: of four of what 16 bits hold stays in 32: the largest of so many values hardly grows with their number.
EXTREMES_ON = 32


class Observe(Stage[ObserveSettings], Resumable):
    """A streaming pass over the data: statistics of what will be quantized; extremes of what 16 bits must hold."""

    name = "observe"
    produces = "statistics"
    version = 12
    resumes: Literal[True] = True
    packages = ("onnxruntime", "numpy", "onnx-ir")

    def settings(self, request: BuildRequest) -> ObserveSettings | NotNeeded:
        precision, data = request.profile.precision, request.recipe.data
        tensor_ranges = precision.half is not None and bool(data.source)  # random data says nothing about real extremes
        if not precision.calibrated and not tensor_ranges:
            without = "; without data, fixed rules decide" if precision.half else ""
            return NotNeeded(reason=f"{precision} needs no ranges{without}")
        return ObserveSettings(
            ranges=precision.calibrated,
            attention=precision.compared,
            tensor_ranges=tensor_ranges,
            skip_bad_samples=data.skip_bad_samples,
        )

    def consumes(self, settings: ObserveSettings) -> tuple[str, ...]:
        return ("simplified", "calibration-data")

    def fingerprint(self, settings: ObserveSettings, runtime: Settings) -> dict[str, str]:
        return load_backend("onnxruntime").fingerprint(runtime)

    def run(
        self, settings: ObserveSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.calibration.statistics import Statistics
        from trtpipe.calibration.statistics_file import save_statistics

        simplified, dataset = inputs.path("simplified"), inputs.datasets.get("calibration-data")
        if dataset is not None:
            statistics = _counted(settings, simplified, dataset, workdir, runtime, progress)
        elif settings.tensor_ranges or (settings.ranges and _observed(simplified, settings)[1]):
            raise InputError(
                "an 8-bit precision needs calibration data, and none was given",
                "add --calib-data (a folder of images, an .npz, or file.py:function) or --calib RECIPE.toml",
            )
        else:
            statistics = Statistics.empty(())
        save_statistics(statistics, workdir / STATISTICS)
        if dataset is None or not settings.tensor_ranges:
            return Draft("statistics", workdir, (STATISTICS,))
        tolerant = settings.skip_bad_samples > 0
        _extremes(simplified, dataset, workdir, runtime, progress, tolerant=tolerant).write(workdir / TENSOR_RANGES)
        return Draft("statistics", workdir, (STATISTICS, TENSOR_RANGES))

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """What may be wrong with the data: too few samples, constant inputs, ranges that have not converged."""
        from trtpipe.calibration.statistics_file import read_data_summary

        found, data = read_data_summary(artifact.path), inputs.datasets.get("calibration-data")
        of_selection = () if data is None else data.warnings
        return (*of_selection, *(() if found is None else found.warnings))

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        from trtpipe.calibration.statistics_file import load_statistics

        load_statistics(draft.path)


def _counted(
    settings: ObserveSettings, simplified: Path, dataset: Dataset, workdir: Path, runtime: Settings, progress: Progress
) -> Statistics:
    """The pass over all samples."""
    from trtpipe.calibration.checkpoint import Checkpoints
    from trtpipe.calibration.collect import collect
    from trtpipe.calibration.statistics_arrays import STATISTICS_REDUCER, StatisticsReducer

    bad = settings.skip_bad_samples
    model, tensors = _observed(simplified, settings) if settings.ranges else (None, ())
    if model is not None and tensors:
        shown = showing(model, (*tensors, *kept_outputs(model, tensors)))
        with written(shown, workdir, OBSERVED) as path:
            del model, shown  # whoever runs it reads the file
            forget(path)
            with load_backend("onnxruntime").open(path, runtime) as runner:
                reduction = runner.reduced(STATISTICS_REDUCER, tensors)
                return collect(reduction, dataset, tensors, progress, bad, Checkpoints(workdir))
    # the data is looked at, but the model need not run
    return collect(LocalReduction(lambda feed: {}, StatisticsReducer(())), dataset, (), progress, bad)


def _observed(simplified: Path, settings: ObserveSettings) -> tuple[ir.Model, tuple[str, ...]]:
    """The graph, and its tensors that may be quantized."""
    from trtpipe.passes.clean_up import load_clean
    from trtpipe.passes.plugins import cut_plugins

    model = load_clean(simplified)
    cut_plugins(model)
    return model, observed_tensors(model, attention=settings.attention)


def observed_tensors(model: ir.Model, keep: tuple[str, ...] = (), *, attention: bool = False) -> tuple[str, ...]:
    """Names of the tensors that may carry a Q/DQ pair, at whatever shapes the model will be used.

    The pass observes them without regard to kept nodes, so that keeping others costs no new pass.

    Args:
        model: from ``load_clean``.
        attention: what the two products of an attention read as well.
    """
    from trtpipe.config.formats import DEFAULT_QUANTIZED
    from trtpipe.config.stage_settings import QuantizationSettings
    from trtpipe.quantization.plan import plan

    settings = QuantizationSettings(precision=DEFAULT_QUANTIZED, keep=keep, attention=attention)
    return plan(model, settings, skip_unprofitable=False).tensors


def showing(model: ir.Model, tensors: tuple[str, ...]) -> ir.Model:
    """The graph with just the observed tensors as outputs, so that nothing else is computed or returned.

    Args:
        model: from ``load_clean``; it is rewritten.
    """
    from trtpipe.passes.expose import expose

    expose(model, tensors)
    return model


def kept_outputs(model: ir.Model, tensors: tuple[str, ...]) -> tuple[str, ...]:
    """The model's outputs, to be kept for later stages; none where these could not be held against others.

    Integers are not: a class changes with the last digit of its score. Nor is what is counted itself.
    """
    import onnx_ir as ir

    names = tuple(str(value.name) for value in model.graph.outputs)
    floats = all(value.dtype == ir.DataType.FLOAT and value.producer() for value in model.graph.outputs)
    return names if floats and set(tensors).isdisjoint(names) else ()


def _extremes(
    simplified: Path, dataset: Dataset, workdir: Path, runtime: Settings, progress: Progress, *, tolerant: bool
) -> TensorRanges:
    """The extremes of all float32 tensors on some samples, which the order and the batches of the data do not decide.

    Args:
        tolerant: leave out samples that the model cannot be run on.

    Raises:
        InputError: it cannot be run on one.
    """
    from trtpipe.autocast.mask_bounds import HALF_FORM
    from trtpipe.autocast.range_probes import add_probes
    from trtpipe.autocast.tensor_ranges import TensorRangeBuilder
    from trtpipe.passes.clean_up import load_clean
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.plugins import cut_plugins

    probes: dict[str, tuple[Probe, ...]] = {}

    def probing() -> ir.Model:
        model = load_clean(simplified)
        cut_plugins(model)
        run_passes(model, HALF_FORM)
        probes.update(add_probes(model))
        return showing(model, tuple(probes))

    with opened(probing(), workdir, runtime, OBSERVED) as runner:
        builder, samples = TensorRangeBuilder(probes), 0
        for sample in track(progress, "extremes", drawn_samples(unbatched(dataset), EXTREMES_ON), None):
            try:
                builder.add(runner.infer(sample.feed))
            except InputError as error:
                if not tolerant:
                    raise InputError(f"{dataset.name}: {error.message}", error.remedy) from error
            else:
                samples += sample.rows
    return builder.finish(samples)
