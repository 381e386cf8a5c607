"""observe: ``simplified.onnx`` and real data -> ``statistics.npz``, in one pass; every method's ranges come from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError
from trtpipe.profile import CALIBRATED

if TYPE_CHECKING:
    from trtpipe.backends.base import Feed, Runner
    from trtpipe.calibration.dataset import Dataset
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.progress import Progress

STATISTICS = "statistics.npz"


class Observe:
    """One streaming pass over the data: statistics of the tensors that will be quantised."""

    name = "observe"
    produces = "statistics"
    version = 1
    packages = ("onnxruntime", "numpy", "onnx-ir")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The simplified graph and the calibration data."""
        return ("simplified", "calibration-data")

    def skip(self, job: Job) -> str | None:
        """Only 8-bit precisions need ranges."""
        precision = job.profile.precision
        return None if precision in CALIBRATED else f"{precision} needs no ranges"

    def key(self, job: Job) -> JSON:
        """The nodes left out, and how samples become feeds (their content is an input); not the method."""
        data = job.recipe.data.to_dict()
        del data["source"]
        return {"keep": list(job.profile.keep), "data": data}

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The runner of the pass."""
        return load_backend("onnxruntime").fingerprint(job.settings)

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Run the observed graph on every feed."""
        from trtpipe.calibration.collect import collect
        from trtpipe.calibration.statistics import Statistics
        from trtpipe.calibration.statistics_file import save_statistics

        simplified = inputs.path("simplified")
        tensors = tensors_of(simplified, job.profile.keep)
        dataset = inputs.datasets.get("calibration-data")
        if dataset is None and tensors:
            raise InputError(
                f"{job.profile.precision} needs calibration data, and none was given",
                "add --calib-data (a folder of images, an .npz, or file.py:function) or --calib RECIPE.toml",
            )
        if dataset is None:
            statistics = Statistics.empty(())
        elif not tensors:  # the data is looked at, but the model need not run
            statistics = collect(lambda feed: {}, dataset, (), progress)
        else:
            statistics = self._observe(job, simplified, tensors, dataset, workdir, progress)
        for warning in statistics.account.warnings if statistics.account else ():
            progress.warn(warning)
        save_statistics(statistics, workdir / STATISTICS)
        return Draft("statistics", workdir, (STATISTICS,)), ()

    def _observe(
        self, job: Job, simplified: Path, tensors: tuple[str, ...], dataset: Dataset, workdir: Path, progress: Progress
    ) -> Statistics:
        from trtpipe.calibration.collect import collect

        observed = workdir / "observed.onnx"
        extra = write_observed(simplified, observed, tensors)
        try:
            with load_backend("onnxruntime").open(observed, job.settings) as runner:
                return collect(Observer(runner, tensors), dataset, tensors, progress)
        finally:
            for name in extra:
                (workdir / name).unlink(missing_ok=True)

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """The file reads back."""
        from trtpipe.calibration.statistics_file import load_statistics

        load_statistics(draft.path)


def tensors_of(simplified: Path, keep: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the tensors to observe: those that will carry a Q/DQ pair."""
    from trtpipe.onnxfile import load_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.placement import observed_tensors, place

    model = load_model(simplified)
    clean_up(model)
    return observed_tensors(place(model, keep)[0])


def write_observed(simplified: Path, path: Path, tensors: tuple[str, ...]) -> tuple[str, ...]:
    """A copy of the graph whose outputs are just the observed tensors, so that nothing else is computed or returned."""
    from trtpipe.onnxfile import load_model, save_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.expose import expose

    model = load_model(simplified)
    clean_up(model)
    expose(model, tensors)
    return save_model(model, path)


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
