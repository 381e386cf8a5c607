"""observe: ``simplified.onnx`` and real data -> ``statistics.npz``, in one pass; every method's ranges come from it.

For 16 bits the same pass writes ``extents.json``: the extremes of every float32 tensor.
A pass that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtpipe.artifact import Draft
from trtpipe.autocast.half_precision import EXTENTS, prepare_half
from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError
from trtpipe.isolation.reducer import ReductionHere

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from trtpipe.autocast.range_probes import Probe
    from trtpipe.autocast.tensor_ranges import Extents
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.job import Job
    from trtpipe.data.dataset import Dataset
    from trtpipe.digest import JSON
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

STATISTICS = "statistics.npz"
OBSERVED = "observed.onnx"


class Observe:
    """One streaming pass over the data: statistics of what will be quantized, extremes of what 16 bits must hold."""

    name = "observe"
    produces = "statistics"
    version = 9
    resumes: Literal[True] = True
    packages = ("onnxruntime", "numpy", "onnx-ir")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The simplified graph and the calibration data."""
        return ("simplified", "calibration-data")

    def skip(self, job: Job) -> str | None:
        """Only 8-bit precisions need ranges; 16-bit ones go by real data where there is some."""
        precision = job.profile.precision
        if precision.calibrated or (precision.half and job.recipe.data.source):
            return None
        return f"{precision} needs no ranges" + ("; without data, fixed rules judge them" if precision.half else "")

    def key(self, job: Job) -> JSON:
        """How samples become feeds (their content is an input), and what for; neither the method nor the kept nodes."""
        data = job.recipe.data.to_dict()
        del data["source"]
        precision = job.profile.precision
        extents = precision.half is not None and bool(job.recipe.data.source)
        return {"ranges": precision.calibrated, "attention": precision.compared, "data": data, "extents": extents}

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The runner of the pass."""
        return load_backend("onnxruntime").fingerprint(job.settings)

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Run the observed graph on every feed."""
        from trtpipe.calibration.collect import collect
        from trtpipe.calibration.statistics import Statistics
        from trtpipe.calibration.statistics_file import save_statistics
        from trtpipe.calibration.tally import Tally
        from trtpipe.passes.clean_up import load_clean

        precision = job.profile.precision
        model = load_clean(inputs.path("simplified"))
        tensors = tensors_of(model, attention=precision.compared) if precision.calibrated else ()
        half = precision.half is not None and bool(
            job.recipe.data.source
        )  # random data says nothing about real extremes
        dataset = inputs.datasets.get("calibration-data")
        if dataset is None and (tensors or half):
            raise InputError(
                f"{job.profile.precision} needs calibration data, and none was given",
                "add --calib-data (a folder of images, an .npz, or file.py:function) or --calib RECIPE.toml",
            )
        extents = None
        if dataset is None:
            statistics = Statistics.empty(())
        elif tensors or half:
            written, probes = write_observed(model, workdir / OBSERVED, tensors, half=half)
            del model  # whoever runs it reads the file
            try:
                statistics, extents = self._observe(job, tensors, probes if half else None, dataset, workdir, progress)
            finally:
                for name in written:
                    (workdir / name).unlink(missing_ok=True)
        else:  # the data is looked at, but the model need not run
            statistics = collect(ReductionHere(lambda feed: {}, Tally(())), dataset, (), progress)
        for warning in statistics.account.warnings if statistics.account else ():
            progress.warn(warning)
        save_statistics(statistics, workdir / STATISTICS)
        if extents is None:
            return Draft("statistics", workdir, (STATISTICS,)), ()
        extents.write(workdir / EXTENTS)
        return Draft("statistics", workdir, (STATISTICS, EXTENTS)), ()

    def _observe(
        self,
        job: Job,
        tensors: tuple[str, ...],
        probes: Mapping[str, tuple[Probe, ...]] | None,
        dataset: Dataset,
        workdir: Path,
        progress: Progress,
    ) -> tuple[Statistics, Extents | None]:
        from trtpipe.autocast.tensor_ranges import ExtentTally
        from trtpipe.calibration.checkpoint import Checkpoints
        from trtpipe.calibration.collect import collect
        from trtpipe.calibration.tally import TALLY

        with load_backend("onnxruntime").open(workdir / OBSERVED, job.settings) as runner:
            tally = ExtentTally(runner.reduced(TALLY, tensors), probes or {})
            checkpoints = Checkpoints(workdir) if probes is None else None  # extents are not in them
            statistics = collect(tally, dataset, tensors, progress, job.recipe.data.skip_bad_samples, checkpoints)
        return statistics, None if probes is None else tally.finish(statistics.samples)

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """The file reads back."""
        from trtpipe.calibration.statistics_file import load_statistics

        load_statistics(draft.path)


def tensors_of(model: ir.Model, keep: tuple[str, ...] = (), *, attention: bool = False) -> tuple[str, ...]:
    """Names of the tensors that may carry a Q/DQ pair, at whatever shapes the model will be used.

    The pass observes them without regard to kept nodes, so that keeping others costs no new pass.

    Args:
        model: from ``load_clean``.
        attention: what the two products of an attention read as well.
    """
    from trtpipe.quantization.plan import place

    return place(model, keep, thrifty=False, attention=attention).tensors


def write_observed(
    model: ir.Model, path: Path, tensors: tuple[str, ...], *, half: bool
) -> tuple[tuple[str, ...], dict[str, tuple[Probe, ...]]]:
    """Write the graph with just the observed tensors as outputs, so that nothing else is computed or returned.

    Args:
        model: from ``load_clean``; it is rewritten.

    Returns:
        The files written, and for ``half`` the outputs that hold probes of all float32 tensors.
    """
    from trtpipe.autocast.range_probes import add_probes
    from trtpipe.passes.expose import expose
    from trtpipe.preflight.onnx_io import save_model

    if half:
        prepare_half(model)
    probes = add_probes(model) if half else {}
    expose(model, (*tensors, *probes))
    return save_model(model, path), probes
