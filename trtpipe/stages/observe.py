"""observe: ``simplified.onnx`` and real data -> ``statistics.npz``, in one pass; every method's ranges come from it.

For 16 bits the same pass writes ``extents.json``: the extremes of every float32 tensor.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError
from trtpipe.profile import CALIBRATED, HALF
from trtpipe.stages.halves import EXTENTS, prepare_half

if TYPE_CHECKING:
    from trtpipe.backends.base import Feed, Runner
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.passes.extents import Probe
    from trtpipe.progress import Progress

STATISTICS = "statistics.npz"


class Observe:
    """One streaming pass over the data: statistics of what will be quantised, extremes of what 16 bits must hold."""

    name = "observe"
    produces = "statistics"
    version = 4
    packages = ("onnxruntime", "numpy", "onnx-ir")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The simplified graph and the calibration data."""
        return ("simplified", "calibration-data")

    def skip(self, job: Job) -> str | None:
        """Only 8-bit precisions need ranges; 16-bit ones go by real data where there is some."""
        precision = job.profile.precision
        if precision in CALIBRATED or (precision in HALF and job.recipe.data.source):
            return None
        return f"{precision} needs no ranges" + ("; without data, fixed rules judge them" if precision in HALF else "")

    def key(self, job: Job) -> JSON:
        """The nodes left out, and how samples become feeds (their content is an input); not the method."""
        data = job.recipe.data.to_dict()
        del data["source"]
        precision = job.profile.precision
        ranges, extents = precision in CALIBRATED, precision in HALF and bool(job.recipe.data.source)
        return {"keep": list(job.profile.keep) if ranges else None, "data": data, "extents": extents}

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The runner of the pass."""
        return load_backend("onnxruntime").fingerprint(job.settings)

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Run the observed graph on every feed."""
        from trtpipe.calibration.collect import collect
        from trtpipe.calibration.extents import ExtentTally
        from trtpipe.calibration.statistics_file import save_statistics

        dataset = inputs.datasets.get("calibration-data")
        if dataset is None:
            raise InputError(
                f"{job.profile.precision} needs calibration data, and none was given",
                "add --calib-data (a folder of images, an .npz, or file.py:function) or --calib RECIPE.toml",
            )
        simplified = inputs.path("simplified")
        precision = job.profile.precision
        tensors = tensors_of(simplified, job.profile.keep) if precision in CALIBRATED else ()
        half = precision in HALF and bool(job.recipe.data.source)  # random data says nothing about real extremes
        observed = workdir / "observed.onnx"
        extra, probes = write_observed(simplified, observed, tensors, half=half)
        try:
            with load_backend("onnxruntime").open(observed, job.settings) as runner:
                tally = ExtentTally(Observer(runner, (*tensors, *probes)), probes)
                statistics = collect(tally, dataset, tensors, progress)
        finally:
            for name in extra:
                (workdir / name).unlink(missing_ok=True)
        for warning in statistics.account.warnings if statistics.account else ():
            progress.warn(warning)
        save_statistics(statistics, workdir / STATISTICS)
        if not half:
            return Draft("statistics", workdir, (STATISTICS,)), ()
        tally.finish(statistics.samples).write(workdir / EXTENTS)
        return Draft("statistics", workdir, (STATISTICS, EXTENTS)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """The file reads back."""
        from trtpipe.calibration.statistics_file import load_statistics

        load_statistics(draft.path)


def tensors_of(simplified: Path, keep: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the tensors to observe: those that will carry a Q/DQ pair."""
    from trtpipe.onnxfile import load_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.placement import place

    model = load_model(simplified)
    clean_up(model)
    return place(model, keep).tensors


def write_observed(
    simplified: Path, path: Path, tensors: tuple[str, ...], *, half: bool
) -> tuple[tuple[str, ...], dict[str, tuple[Probe, ...]]]:
    """A copy of the graph whose outputs are just the observed tensors, so that nothing else is computed or returned.

    Returns:
        The files written, and for ``half`` the outputs that hold probes of all float32 tensors.
    """
    from trtpipe.onnxfile import load_model, save_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.expose import expose
    from trtpipe.passes.extents import add_probes

    model = load_model(simplified)
    clean_up(model)
    if half:
        prepare_half(model)
    probes = add_probes(model) if half else {}
    expose(model, (*tensors, *probes))
    return save_model(model, path), probes


class Observer:
    """Runs the observed graph; tensors that are graph inputs themselves are taken from the feed."""

    def __init__(self, runner: Runner, tensors: tuple[str, ...]) -> None:
        self._runner = runner
        self._tensors = tensors
        self._inputs = {spec.name for spec in runner.inputs}

    def __call__(self, feed: Feed) -> Feed:
        """Values of all observed tensors for one feed."""
        found = self._runner.infer({name: value for name, value in feed.items() if name in self._inputs})
        return {name: found[name] if name in found else feed[name] for name in self._tensors}
