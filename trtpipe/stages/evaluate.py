"""evaluate: one graph and labeled data -> ``metric.json``: the task metric, as ``verify`` would measure it.

Not on the way to an engine: ``tune`` asks for it, of the exported model and of every lowered graph it compares.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtpipe.accuracy.reports import MetricValue
from trtpipe.artifact import Draft, Observed
from trtpipe.backends.base import load_backend
from trtpipe.config.formats import FULL_PRECISION
from trtpipe.config.stage_settings import EvaluateSettings, MetricSettings
from trtpipe.errors import InputError
from trtpipe.reference.runnable import runnable_graph
from trtpipe.stages.stage import METRIC, Stage

if TYPE_CHECKING:
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

VALUE = "metric.json"


class Evaluate(Stage[EvaluateSettings]):
    """Measures the task metric of one graph.

    Args:
        label: which graph.
    """

    name = "evaluate"
    produces = "metric"
    version = 4
    packages = ("onnxruntime", "numpy", "onnx-ir")

    def __init__(self, label: Literal["model", "lowered"]) -> None:
        self._label = label

    def settings(self, request: BuildRequest) -> EvaluateSettings:
        return EvaluateSettings(
            of=self._label,
            precision=request.profile.precision if self._label == "lowered" else FULL_PRECISION,
            metric=MetricSettings.of(request.recipe.evaluation),
        )

    def consumes(self, settings: EvaluateSettings) -> tuple[str, ...]:
        graphs = dict.fromkeys((settings.of, *(("model",) if _looks_at_float32(settings) else ())))
        return (*graphs, "evaluation-data", METRIC)

    def fingerprint(self, settings: EvaluateSettings, runtime: Settings) -> dict[str, str]:
        return load_backend("onnxruntime").fingerprint(runtime)

    def run(
        self, settings: EvaluateSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.accuracy.metrics import measure_metric, own_metric
        from trtpipe.isolation.worker import user_limits

        metric, dataset = settings.metric, inputs.datasets.get("evaluation-data")
        if metric is None or (dataset is None and metric.name):
            raise InputError(
                "tuning needs a metric and labeled data",
                "add --eval-data DATA (with labels), or --metric case.py:evaluate",
            )
        onnx, path = load_backend("onnxruntime"), inputs.path(settings.of)
        with ExitStack() as stack:
            if settings.of == "lowered":
                path, _ = runnable_graph(path, settings.precision.half, workdir)
            runner = stack.enter_context(onnx.open(path, runtime))
            reference = runner
            if _looks_at_float32(settings):
                reference = stack.enter_context(onnx.open(inputs.path("model"), runtime))
            evaluation = metric.evaluation(inputs.metric)
            own = own_metric(evaluation, user_limits(runtime))
            value = measure_metric(settings.of, runner, reference, evaluation, dataset, own)
        for leftover in workdir.iterdir():
            leftover.unlink()
        value.write(workdir / VALUE)
        return Draft("metric", workdir, (VALUE,), observed=own.read() if own else Observed())

    def check(self, draft: Draft, inputs: Inputs) -> None:
        MetricValue.read(draft.path)


def _looks_at_float32(settings: EvaluateSettings) -> bool:
    return settings.metric is not None and settings.metric.name == "cosine"
