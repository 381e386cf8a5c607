"""Tuning: free corrections first, then the smallest set of layers kept in higher precision that holds a budget.

Every trial is a build up to the lowered graph, through the same stages and the same store: what is evaluated is the
graph that ``build`` makes of the profile, with corrections searched for it. So nothing is computed twice, a search that
was interrupted goes on where it was, and only evaluations of the metric are rationed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from glob import escape
from typing import TYPE_CHECKING, Any

from trtpipe.accuracy.reports import MetricValue
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.methods import Method
from trtpipe.config.metrics import METRICS
from trtpipe.config.recipe import WeightMethod
from trtpipe.errors import InternalError
from trtpipe.passes.decisions import WorkShare
from trtpipe.pipeline.pipeline import stages_named
from trtpipe.progress import NullProgress, Progress, track
from trtpipe.quantization.layer_search import LayerTrial, Search, TimeBudgetSpent
from trtpipe.quantization.sensitivity import GroupSensitivity, Sensitivity
from trtpipe.quantization.tuning_report import Budget, Calibration, Tuning
from trtpipe.regression.significance import compare_metric
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.evaluate import Evaluate
from trtpipe.stages.sensitivity import MeasureSensitivity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.artifact import Artifact
    from trtpipe.config.job import Job
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.pipeline.pipeline import Pipeline
    from trtpipe.stages.stage import Stage

#: What comes before any choice of layers.
BEFORE = ("export", "simplify", "observe", "calibrate")
#: Evaluations of the metric at most, float32's own among them.
MOST_EVALUATIONS = 6
#: Free corrections that are tried on the metric, before any layer is kept.
_ON_METRIC = 2
#: dB: what another method has to gain to come before the recipe's own.
_GAIN = 0.5
_NO_WORK, _NOTHING_QUANTIZED = WorkShare(total=0, eight_bit=0), WorkShare(total=1, eight_bit=0)
_METHODS: tuple[Method, ...] = ("percentile", "mse", "max", "entropy", "auto")


@dataclass(frozen=True)
class Tuned:
    """The result, and the profile and recipe that make it."""

    tuning: Tuning
    profile: DeploymentProfile
    recipe: CalibrationRecipe


@dataclass(frozen=True)
class _Evaluation:
    """One lowered graph: its metric, its work in 8 bits, its sha256."""

    value: MetricValue
    work: WorkShare
    graph: str


@dataclass
class Tuner:
    """One search.

    Args:
        job: with a source, an 8-bit precision, calibration data and a metric.
        seconds: time for evaluations, or ``None``; it is up when the next one would not fit. One is always made.
        recalibrate: whether free corrections besides the recipe's own may be tried.
    """

    job: Job
    pipeline: Pipeline
    budget: Budget
    seconds: float | None
    recalibrate: bool
    progress: Progress
    _evaluations: dict[tuple[Method, WeightMethod, tuple[int, ...]], _Evaluation] = field(default_factory=dict)
    _begin: float = field(default_factory=time.monotonic)
    _longest: float = 0.0
    _stopped: bool = False

    def run(self) -> Tuned:
        """Search; the float32 model's metric first, because a metric or data that are no good show there."""
        stages = (*stages_named("export"), Evaluate("model"))
        reference = MetricValue.read(self._last(self.job, stages, self.progress).path)
        allowed = self.budget.allowed(reference)
        calibrations = self._calibrations()
        self.progress.begin("tune")
        try:
            found = self._search(calibrations, reference, allowed)
        except BaseException:
            self.progress.end("tune", "failed")
            raise
        self.progress.end("tune", "built")
        return found

    def _search(self, calibrations: list[Calibration], reference: MetricValue, allowed: float) -> Tuned:
        calibrations, chosen = self._on_metric(calibrations, reference, allowed)
        groups: tuple[GroupSensitivity, ...] = ()
        trials: tuple[LayerTrial, ...] = ()
        kept: tuple[int, ...] | None = ()
        if chosen.loss is None or not chosen.loss <= allowed + 1e-12:
            job = replace(self.job, recipe=self._recipe(chosen))
            measured = self._last(job, (*stages_named(*BEFORE), MeasureSensitivity()))
            groups = Sensitivity.read(measured.path).groups
            search = Search(
                groups,
                lambda kept: self._evaluate(chosen, groups, kept).value.loss(reference),
                allowed,
                MOST_EVALUATIONS - max(len(self._evaluations), 1),
                exact=self._exact,
            )
            kept = search.run()
            trials = tuple(search.trials)
        return self._result(calibrations, chosen, groups, kept, trials, reference, allowed)

    @property
    def _exact(self) -> bool:
        """Whether what is kept stays float32; ``best`` computes it in 16 bits."""
        return self.job.profile.precision.half is None

    def _calibrations(self) -> list[Calibration]:
        """The ways to calibrate, least noise first; the recipe's own before those that are not clearly better."""
        recipe = self.job.recipe
        own = self._calibrated(recipe.method, recipe.weights, self.progress)
        if not self.recalibrate or own.noise is None:
            return [own]
        self.progress.begin("corrections")
        methods = [method for method in _METHODS if method != recipe.method]
        others = [
            self._calibrated(method, recipe.weights, NullProgress())
            for method in track(self.progress, "calibrations", methods, len(methods))
        ]
        best = min((own, *others), key=_noise)
        others.append(self._calibrated(best.method, "mse" if recipe.weights == "max" else "max", NullProgress()))
        self.progress.end("corrections", "built")
        better = [each for each in others if _noise(each) < _noise(own) - _GAIN]
        return [*sorted(better, key=_noise), own, *sorted((each for each in others if each not in better), key=_noise)]

    def _calibrated(self, method: Method, weights: WeightMethod, progress: Progress) -> Calibration:
        recipe = self.job.recipe.model_copy(update={"method": method, "weights": weights})
        ranges = Ranges.read(self._last(replace(self.job, recipe=recipe), stages_named(*BEFORE), progress).path)
        corrections = ranges.corrections
        return Calibration(
            method=method,
            weights=weights,
            corrections=corrections.taken,
            kept=tuple(corrections.kept),
            not_quantizable=len(ranges.not_quantizable),
            noise=corrections.noise,
        )

    def _on_metric(
        self, calibrations: list[Calibration], reference: MetricValue, allowed: float
    ) -> tuple[list[Calibration], Calibration]:
        """Everything in 8 bits: ways to calibrate until the budget holds, and the recipe's own; if what holds leaves
        tensors in high precision that others do not, the best of these too. Of those that hold, the one with most work
        in 8 bits.
        """
        recipe = self.job.recipe
        own = next(each for each in calibrations if (each.method, each.weights) == (recipe.method, recipe.weights))
        first = calibrations[:_ON_METRIC]
        whole = next((each for each in calibrations if not each.not_quantizable), own)
        found: dict[Calibration, float] = {}
        holding: list[Calibration] = []
        try:
            for each in (*(first if own in first else (*first[:-1], own)), whole):
                wanted = all(better.not_quantizable for better in holding) if each == whole else not holding
                if each not in found and (each == own or wanted):
                    found[each] = self._evaluate(each, (), ()).value.loss(reference)
                    holding += [each] if found[each] <= allowed + 1e-12 else []
        except TimeBudgetSpent:
            self._stopped = True

        def rank(each: Calibration) -> tuple[float, float]:
            share = self._evaluate(each, (), ()).work.share if each in holding else -1.0
            return -round(share, 2), found.get(each, float("inf"))

        best = min(calibrations, key=rank)
        known = [each.model_copy(update={"loss": found.get(each)}) for each in calibrations]
        return known, known[calibrations.index(best)]

    def _evaluate(
        self, calibration: Calibration, groups: Sequence[GroupSensitivity], kept: Sequence[int]
    ) -> _Evaluation:
        """The metric of what build makes if these groups are kept.

        Raises:
            TimeBudgetSpent: its evaluation would not fit into the time.
        """
        key = (calibration.method, calibration.weights, tuple(kept))
        if key not in self._evaluations:
            job = replace(self.job, recipe=self._recipe(calibration), profile=self._profile(calibration, groups, kept))
            self._evaluations[key] = self._evaluated(job)
            self.progress.advance("evaluations", len(self._evaluations) + 1, MOST_EVALUATIONS)
        return self._evaluations[key]

    def _evaluated(self, job: Job) -> _Evaluation:
        stages = (*stages_named(*BEFORE, "lower"), Evaluate("lowered"))
        pipeline = self.pipeline.varied(job, NullProgress())
        begin = time.monotonic()
        if not all(step.state in ("hit", "skipped") for step in pipeline.plan(stages, {})):
            if self.seconds is not None and self._longest and begin - self._begin + self._longest > self.seconds:
                self._stopped = True
                raise TimeBudgetSpent
            steps = pipeline.run(stages, {})
            self._longest = max(self._longest, time.monotonic() - begin)
        else:
            steps = pipeline.run(stages, {})
        *_, lowered, metric = (_made(step.artifact) for step in steps if step.state != "skipped")
        work = LowerRecord.read(lowered.sidecar).work or _NO_WORK
        return _Evaluation(MetricValue.read(metric.path), work, lowered.files[0].sha256)

    def _result(
        self,
        calibrations: Sequence[Calibration],
        chosen: Calibration,
        groups: Sequence[GroupSensitivity],
        kept: tuple[int, ...] | None,
        trials: tuple[LayerTrial, ...],
        reference: MetricValue,
        allowed: float,
    ) -> Tuned:
        """What was found, or the best that can be where nothing holds."""
        met = kept is not None
        if kept is None:
            best = min(trials, key=lambda trial: trial.loss, default=None)
            float32_is_best = best is None or (self._exact and best.loss >= 0)
            kept = tuple(range(len(groups))) if best is None or float32_is_best else best.kept
        exact = _Evaluation(reference, _NOTHING_QUANTIZED, "")
        profile, recipe = self._profile(chosen, groups, kept), self._recipe(chosen)
        found, lowered = (self._evaluations.get((chosen.method, chosen.weights, each), exact) for each in (kept, ()))
        test = compare_metric(reference, found.value)
        words = f"{test.name}: loss {test.low:+.4g} to {test.high:+.4g}, p = {test.p:.3g}" if test.p is not None else ""
        drop = max(allowed, 0.0)
        unit = drop >= 1 and reference.metric in METRICS  # a share needs its unit there
        gate = profile.accuracy.model_copy(update={"max_drop": f"{100 * drop:g}%" if unit else drop})
        tuning = Tuning(
            met=met,
            complete=not self._stopped,
            calibrations=tuple(calibrations),
            calibration=chosen,
            groups=tuple(groups[index].name for index in kept),
            nodes=tuple(node for index in kept for node in groups[index].nodes),
            reference=reference,
            lowered=lowered.value,
            tuned=found.value,
            allowed=allowed,
            share=found.work.share,
            reached=found.work.share_reached,
            evaluations=len(self._evaluations) + 1,
            trials=trials,
            graph=found.graph,
            words=words or test.name,
        )
        return Tuned(tuning, profile.model_copy(update={"accuracy": gate}), recipe)

    def _recipe(self, calibration: Calibration) -> CalibrationRecipe:
        return self.job.recipe.model_copy(update={"method": calibration.method, "weights": calibration.weights})

    def _profile(
        self, calibration: Calibration, groups: Sequence[GroupSensitivity], kept: Sequence[int]
    ) -> DeploymentProfile:
        """The job's, with the keys that say what is kept: float32, or for ``best`` 16 bits.

        What calibration kept in higher precision stays kept: with more kept, the fallback would not find it again, and
        sensitivity left it out.
        With all groups every node is kept: what is in none, as it is not profitable, would be quantized instead.
        """
        profile = self.job.profile
        if not kept:
            return profile
        if profile.precision.mixed:
            nodes = (node for index, group in enumerate(groups) if index not in kept for node in group.nodes)
            return profile.model_copy(update={"int8_nodes": tuple(map(escape, nodes))})
        if len(kept) == len(groups):
            return profile.model_copy(update={"keep": ("*",)})
        high = (*calibration.kept, *(node for index in kept for node in groups[index].nodes))
        return profile.model_copy(update={"keep": (*profile.keep, *map(escape, high))})

    def _last(self, job: Job, stages: tuple[Stage[Any], ...], progress: Progress = NullProgress()) -> Artifact:  # noqa: B008
        return _made(self.pipeline.varied(job, progress).run(stages, {})[-1].artifact)


def _noise(calibration: Calibration) -> float:
    return float("inf") if calibration.noise is None else calibration.noise


def _made(artifact: Artifact | None) -> Artifact:
    if artifact is None:
        raise InternalError("the last stage made nothing")
    return artifact
