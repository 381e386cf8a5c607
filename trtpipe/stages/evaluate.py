"""evaluate: one graph and labeled data -> ``metric.json``: the task metric, as ``verify`` would measure it.

Not on the way to an engine: ``tune`` asks for it, of the exported model and of every lowered graph it compares.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtpipe.accuracy.reports import MetricValue
from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError
from trtpipe.reference.runnable import runnable_graph

if TYPE_CHECKING:
    from trtpipe.config.job import Job
    from trtpipe.digest import JSON
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

METRIC = "metric.json"


class Evaluate:
    """Measures the task metric of one graph.

    Args:
        label: which graph.
    """

    name = "evaluate"
    produces = "metric"
    version = 2
    packages = ("onnxruntime", "numpy", "onnx-ir")

    def __init__(self, label: Literal["model", "lowered"]) -> None:
        self._label = label

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The graph, labeled data, and for the one metric that looks at float32's outputs the model."""
        return (*dict.fromkeys((self._label, *(("model",) if _looks_at_float32(job) else ()))), "evaluation-data")

    def skip(self, job: Job) -> str | None:
        """Never."""
        return None

    def key(self, job: Job) -> JSON:
        """Which graph, the precision, whose storage may be emulated, and the metric."""
        from trtpipe.accuracy.custom import evaluation_key

        return {
            "of": self._label,
            "precision": job.profile.precision,
            "evaluation": evaluation_key(job.recipe.evaluation),
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The runner."""
        return load_backend("onnxruntime").fingerprint(job.settings)

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Run it on all samples."""
        from trtpipe.accuracy.metrics import measure_metric

        evaluation, dataset = job.recipe.evaluation, inputs.datasets.get("evaluation-data")
        if evaluation is None or (dataset is None and not evaluation.own):
            raise InputError(
                "tuning needs a metric and labeled data",
                "add --eval-data DATA (with labels), or --metric case.py:evaluate",
            )
        onnx, path = load_backend("onnxruntime"), inputs.path(self._label)
        with ExitStack() as stack:
            if self._label == "lowered":
                path, _ = runnable_graph(path, job.profile.precision, workdir)
            runner = stack.enter_context(onnx.open(path, job.settings))
            reference = runner
            if _looks_at_float32(job):
                reference = stack.enter_context(onnx.open(inputs.path("model"), job.settings))
            value = measure_metric(self._label, runner, reference, evaluation, dataset)
        for leftover in workdir.iterdir():
            leftover.unlink()
        value.write(workdir / METRIC)
        return Draft("metric", workdir, (METRIC,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """It can be read."""
        MetricValue.read(draft.path)


def _looks_at_float32(job: Job) -> bool:
    return job.recipe.evaluation is not None and job.recipe.evaluation.metric == "cosine"
