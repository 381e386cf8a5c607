"""tune: sensitivity and labelled data -> ``tuning.json``: the smallest set of layers kept that holds a budget."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.accuracy.reports import MetricValue
from trtpipe.accuracy.sensitivity import GroupSensitivity, Sensitivity
from trtpipe.accuracy.significance import compare_metric
from trtpipe.accuracy.tuning import OutOfTime, Search, Trial
from trtpipe.artifact import Draft, Record
from trtpipe.backends.base import load_backend
from trtpipe.digest import sha256_json
from trtpipe.errors import InputError, StageError
from trtpipe.profile import CALIBRATED
from trtpipe.stages.switching import Switchboard, board_for

if TYPE_CHECKING:
    from trtpipe.calibration.dataset import Dataset
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.progress import Progress
    from trtpipe.recipe import EvaluationSettings
    from trtpipe.source import Memory

TUNING = "tuning.json"
#: Evaluations of the metric at most, float32's own among them.
MOST_EVALUATIONS = 12


@dataclass(frozen=True)
class Budget:
    """What must hold: a largest loss, or a least value (for errors a largest one) of the metric.

    Attributes:
        max_drop: how much worse than float32 the metric may be, in its own unit.
        least: the value itself; one of the two is given.
        metric: its name, where the user said it; it must be that of the recipe.
    """

    max_drop: float | None = None
    least: float | None = None
    metric: str = ""

    def allowed(self, reference: MetricValue) -> float:
        """The loss that is accepted."""
        if self.max_drop is not None:
            return self.max_drop
        assert self.least is not None
        return self.least - reference.value if reference.lower_is_better else reference.value - self.least


class Tuning(Record):
    """``tuning.json``: what may be in 8 bits.

    Attributes:
        met: whether the budget holds with ``kept``; if not, ``kept`` is the best that can be.
        complete: whether the search went to its end, or its time was up.
        groups, nodes: kept in higher precision: first nodes of the groups, and all their nodes.
        eight_bits: nodes that are not.
        reference, lowered, tuned: the metric in float32, with everything in 8 bits, and with ``kept``.
        allowed: the loss that is accepted.
        share: of the multiply-accumulates of weighted nodes that are in 8 bits, 0 to 1.
        trials: every evaluation besides float32's, in their order.
        predicted_noise: of ``kept``, by the sum of the groups'.
        words: what a paired test says of the loss that is left.
    """

    met: bool
    complete: bool
    groups: tuple[str, ...]
    nodes: tuple[str, ...]
    eight_bits: tuple[str, ...]
    reference: MetricValue
    lowered: MetricValue
    tuned: MetricValue
    allowed: float
    share: float
    trials: tuple[Trial, ...]
    predicted_noise: float
    words: str


class Tune:
    """Searches on the true metric; every evaluation is remembered at once, so that a search can go on.

    Args:
        budget: what must hold.
        seconds: time for evaluations, or ``None``; it is up when the next one would not fit.
        memory: outlives the run.
    """

    name = "tune"
    produces = "tuning"
    version = 1
    packages = ("onnxruntime", "numpy", "onnx-ir", "onnx")

    def __init__(self, budget: Budget, seconds: float | None, memory: Memory) -> None:
        self._budget = budget
        self._seconds = seconds
        self._memory = memory

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The graph, its ranges, the sensitivity of its groups, and labelled data."""
        return ("simplified", "ranges", "sensitivity", "evaluation-data")

    def skip(self, job: Job) -> str | None:
        """Only 8-bit precisions have something to choose."""
        precision = job.profile.precision
        return None if precision in CALIBRATED else f"{precision} is not chosen layer by layer"

    def key(self, job: Job) -> JSON:
        """The budget, the metric, and what the graph depends on; the time makes another result possible."""
        return {
            **self._described(job),
            "budget": [self._budget.max_drop, self._budget.least],
            "seconds": self._seconds,
            "earlier": self._memory.recall(self._unfinished(job)),
        }

    def _unfinished(self, job: Job) -> str:
        """Where runs that ended early are counted, so that the next one goes on instead of finding their result."""
        budget = [self._budget.max_drop, self._budget.least, self._seconds]
        return f"tune-unfinished-{sha256_json([self._described(job), budget])}"

    def _described(self, job: Job) -> dict[str, JSON]:
        """What decides a single evaluation, besides the inputs."""
        from trtpipe.accuracy.custom import fingerprint

        evaluation = job.recipe.evaluation
        described = evaluation.to_dict() if evaluation else {}
        described.pop("source", None)
        if evaluation and evaluation.own:
            described["metric"] = fingerprint(evaluation.metric)
        return {
            "precision": job.profile.precision,
            "keep": list(job.profile.keep),
            "weights": job.recipe.weights,
            "evaluation": described,
            "shapes": {name: list(shape) for name, shape in job.opt_shapes.items()},
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The runner."""
        return load_backend("onnxruntime").fingerprint(job.settings)

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Search."""
        evaluation, dataset = job.recipe.evaluation, inputs.datasets.get("evaluation-data")
        if evaluation is None or (dataset is None and not evaluation.own):
            raise InputError(
                "tuning needs a metric and labelled data",
                "add --eval-data DATA (with labels), or --metric case.py:evaluate",
            )
        sensitivity = Sensitivity.read(inputs.path("sensitivity"))
        meter = _Meter(self, job, inputs, workdir, evaluation, dataset, progress)
        reference = meter.value(range(len(sensitivity.groups)))
        if self._budget.metric and self._budget.metric != reference.metric:
            raise InputError(
                f"--min {self._budget.metric}: the metric is {reference.metric}",
                f"write --min {reference.metric}=VALUE",
            )
        search = Search(
            sensitivity.groups,
            lambda kept: meter.value(kept).loss(reference),
            self._budget.allowed(reference),
            MOST_EVALUATIONS - 1,
        )
        kept = search.run()
        for leftover in workdir.iterdir():
            leftover.unlink()
        if meter.stopped:
            earlier = self._memory.recall(self._unfinished(job))
            self._memory.remember(self._unfinished(job), (earlier if isinstance(earlier, int) else 0) + 1)
        _tuning(search, kept, sensitivity, reference, meter, complete=not meter.stopped).write(workdir / TUNING)
        return Draft("tuning", workdir, (TUNING,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """A budget that is met is met on the metric."""
        found = Tuning.read(draft.path)
        if found.met and found.tuned.loss(found.reference) > found.allowed + 1e-9:
            raise StageError(f"{TUNING}: the budget does not hold after all", "report this as a bug")


class _Meter:
    """Evaluates choices of groups, each once in a lifetime."""

    def __init__(
        self,
        stage: Tune,
        job: Job,
        inputs: Inputs,
        workdir: Path,
        evaluation: EvaluationSettings,
        dataset: Dataset | None,
        progress: Progress,
    ) -> None:
        from trtpipe.calibration.ranges import Ranges

        self._evaluation, self._dataset, self._progress = evaluation, dataset, progress
        self._memory, self._seconds = stage._memory, stage._seconds
        ranges = Ranges.read(inputs.path("ranges"))
        self._board: Switchboard = board_for(job, inputs, ranges, workdir, logits=False)
        self._identity = sha256_json(
            [
                "tune",
                stage.version,
                stage._described(job),
                inputs.artifacts["simplified"].digest,
                inputs.artifacts["ranges"].digest,
                "" if dataset is None else dataset.digest(),
            ]
        )
        self._begin = time.monotonic()
        self._longest = 0.0
        self._done = 0
        self.known: dict[tuple[int, ...], MetricValue] = {}
        self.stopped = False

    def value(self, kept: tuple[int, ...] | range) -> MetricValue:
        """The metric with these groups kept.

        Raises:
            OutOfTime: the next evaluation would not fit into the time.
        """
        chosen = tuple(kept)
        if chosen not in self.known:
            self._done += 1
            self._progress.advance("evaluations", self._done - 1, MOST_EVALUATIONS)
            self.known[chosen] = self._recalled(chosen) or self._measured(chosen)
            self._progress.advance("evaluations", self._done, MOST_EVALUATIONS)
        return self.known[chosen]

    def _recalled(self, kept: tuple[int, ...]) -> MetricValue | None:
        found = self._memory.recall(self._name(kept))
        return None if found is None else MetricValue.model_validate(found)

    def _measured(self, kept: tuple[int, ...]) -> MetricValue:
        from trtpipe.accuracy.measuring import measure_metric

        begin = time.monotonic()
        if self._seconds is not None and self._longest and begin - self._begin + self._longest > self._seconds:
            self.stopped = True
            raise OutOfTime
        with ExitStack() as stack:
            everything = len(kept) == len(self._board.groups)
            runner = stack.enter_context(self._board.open(()) if everything else self._board.without(kept))
            alike = self._evaluation.metric != "cosine"  # the one metric that looks at float32's outputs
            reference = runner if alike else stack.enter_context(self._board.open(()))
            value = measure_metric(
                "float32" if everything else "mixed", runner, reference, self._evaluation, self._dataset
            )
        self._longest = max(self._longest, time.monotonic() - begin)
        self._memory.remember(self._name(kept), value.to_dict())
        return value

    def _name(self, kept: tuple[int, ...]) -> str:
        return f"tune-{sha256_json([self._identity, list(kept)])}"


def _tuning(
    search: Search,
    kept: tuple[int, ...] | None,
    sensitivity: Sensitivity,
    reference: MetricValue,
    meter: _Meter,
    *,
    complete: bool,
) -> Tuning:
    """What was found, or the best that can be where nothing holds."""
    met = kept is not None
    if kept is None:
        best = min(search.trials, key=lambda trial: trial.loss, default=None)
        kept = best.kept if best is not None and best.loss < 0 else search.everything
    groups: tuple[GroupSensitivity, ...] = sensitivity.groups
    total = sum(group.macs for group in groups) + sensitivity.never
    tuned = meter.known.get(kept, reference)
    test = compare_metric(reference, tuned)
    return Tuning(
        met=met,
        complete=complete,
        groups=tuple(groups[index].name for index in kept),
        nodes=tuple(node for index in kept for node in groups[index].nodes),
        eight_bits=tuple(node for index, group in enumerate(groups) if index not in kept for node in group.nodes),
        reference=reference,
        lowered=meter.known.get((), reference),
        tuned=tuned,
        allowed=search.allowed,
        share=(total - search.work(kept) - sensitivity.never) / total if total else 0.0,
        trials=tuple(search.trials),
        predicted_noise=sum(group.noise for index, group in enumerate(groups) if index not in kept),
        words=test.name
        if test.p is None
        else f"{test.name}: loss {test.low:+.4f} to {test.high:+.4f}, p = {test.p:.3g}",
    )
