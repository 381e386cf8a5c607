"""observe: ``simplified.onnx`` and real data -> ``statistics.npz``, in one pass; every method's ranges come from it.

For 16 bits the same pass writes ``tensor_ranges.json``: the extremes of every float32 tensor.
A pass that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtpipe.artifact import Draft
from trtpipe.autocast.half_precision import TENSOR_RANGES
from trtpipe.backends.base import load_backend
from trtpipe.config.stage_settings import NotNeeded, ObserveSettings
from trtpipe.errors import InputError
from trtpipe.isolation.reducer import LocalReduction
from trtpipe.stages.stage import Resumable, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.artifact import Artifact
    from trtpipe.autocast.range_probes import Probe
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import BuildRequest
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

STATISTICS = "statistics.npz"
OBSERVED = "observed.onnx"


class Observe(Stage[ObserveSettings], Resumable):
    """One streaming pass over the data: statistics of what will be quantized, extremes of what 16 bits must hold."""

    name = "observe"
    produces = "statistics"
    version = 10
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
        from trtpipe.autocast.tensor_ranges import TensorRangeReducer
        from trtpipe.calibration.checkpoint import Checkpoints
        from trtpipe.calibration.collect import collect
        from trtpipe.calibration.statistics import Statistics
        from trtpipe.calibration.statistics_arrays import STATISTICS_REDUCER, StatisticsReducer
        from trtpipe.calibration.statistics_file import save_statistics
        from trtpipe.passes.clean_up import load_clean
        from trtpipe.passes.plugins import cut_plugins

        model = load_clean(inputs.path("simplified"))
        cut_plugins(model)
        tensors = observed_tensors(model, attention=settings.attention) if settings.ranges else ()
        half = settings.tensor_ranges
        dataset = inputs.datasets.get("calibration-data")
        if dataset is None and (tensors or half):
            raise InputError(
                "an 8-bit precision needs calibration data, and none was given",
                "add --calib-data (a folder of images, an .npz, or file.py:function) or --calib RECIPE.toml",
            )
        tensor_ranges = None
        if dataset is None:
            statistics = Statistics.empty(())
        elif tensors or half:
            written, probes = write_observed(model, workdir / OBSERVED, tensors, half=half)
            del model  # whoever runs it reads the file
            try:
                with load_backend("onnxruntime").open(workdir / OBSERVED, runtime) as runner:
                    reducer = TensorRangeReducer(runner.reduced(STATISTICS_REDUCER, tensors), probes)
                    checkpoints = None if half else Checkpoints(workdir)  # tensor ranges are not in them
                    statistics = collect(reducer, dataset, tensors, progress, settings.skip_bad_samples, checkpoints)
                tensor_ranges = reducer.finish(statistics.samples) if half else None
            finally:
                for name in written:
                    (workdir / name).unlink(missing_ok=True)
        else:  # the data is looked at, but the model need not run
            statistics = collect(LocalReduction(lambda feed: {}, StatisticsReducer(())), dataset, (), progress)
        save_statistics(statistics, workdir / STATISTICS)
        if tensor_ranges is None:
            return Draft("statistics", workdir, (STATISTICS,))
        tensor_ranges.write(workdir / TENSOR_RANGES)
        return Draft("statistics", workdir, (STATISTICS, TENSOR_RANGES))

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """What may be wrong with the data: too few samples, constant inputs, ranges that have not converged."""
        from trtpipe.calibration.statistics_file import read_data_summary

        found = read_data_summary(artifact.path)
        return () if found is None else found.warnings

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        from trtpipe.calibration.statistics_file import load_statistics

        load_statistics(draft.path)


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


def write_observed(
    model: ir.Model, path: Path, tensors: tuple[str, ...], *, half: bool
) -> tuple[tuple[str, ...], dict[str, tuple[Probe, ...]]]:
    """Write the graph with just the observed tensors as outputs, so that nothing else is computed or returned.

    Args:
        model: from ``load_clean``; it is rewritten.

    Returns:
        The files written, and for ``half`` the outputs that hold probes of all float32 tensors.
    """
    from trtpipe.autocast.mask_bounds import HALF_FORM
    from trtpipe.autocast.range_probes import add_probes
    from trtpipe.passes.expose import expose
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.preflight.onnx_io import save_model

    if half:
        run_passes(model, HALF_FORM)
    probes = add_probes(model) if half else {}
    expose(model, (*tensors, *probes))
    return save_model(model, path), probes
