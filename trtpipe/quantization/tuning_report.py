"""What tuning is asked for, and what it found: a budget, and the report beside the profile."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trtpipe.accuracy.reports import MetricValue
from trtpipe.artifact import PublicRecord, Record
from trtpipe.config.methods import Method
from trtpipe.config.metrics import limit_of_drop, limit_of_value
from trtpipe.config.recipe import EvaluationSettings, WeightMethod
from trtpipe.errors import InputError
from trtpipe.quantization.layer_search import LayerTrial


@dataclass(frozen=True)
class Budget:
    """What must hold: a largest loss, or a least value (for errors a largest one) of the metric.

    Attributes:
        max_drop: how much worse than float32 the metric may be: ``"0.5%"``, or ``0.005``; see ``AccuracyGate``.
        least: the value itself; one of the two is given.
        metric: its name, where the user said it; it must be that of the recipe.
    """

    max_drop: float | str | None = None
    least: float | str | None = None
    metric: str = ""

    def of(self, evaluation: EvaluationSettings) -> Budget:
        """The same in the metric's own unit.

        Raises:
            InputError: no amount, one that can be read in two ways, or none that the metric can have.
        """
        drop, least, metric = self.max_drop, self.least, evaluation.metric
        return replace(
            self,
            max_drop=None if drop is None else limit_of_drop("max_drop", drop, metric),
            least=None if least is None else limit_of_value(f"min {self.metric or metric}", least, metric),
        )

    def allowed(self, reference: MetricValue) -> float:
        """The loss that is accepted.

        Raises:
            InputError: it is meant for another metric.
        """
        if self.metric and self.metric != reference.metric:
            raise InputError(
                f"--min {self.metric}: the metric is {reference.metric}", f"write --min {reference.metric}=VALUE"
            )
        if self.max_drop is not None:
            return float(self.max_drop)
        assert self.least is not None
        least = float(self.least)
        return least - reference.value if reference.lower_is_better else reference.value - least


class Calibration(Record):
    """A way to calibrate, with the corrections that went with it.

    Attributes:
        method, weights: as in a recipe.
        corrections: smoothing, bias correction and groups kept in higher precision, as far as they helped.
        kept: the nodes of those groups; they are kept whatever else is.
        not_quantizable: tensors whose range is too wide for the format; their readers are kept in higher precision.
        noise: noise over signal at the outputs in dB, everything in 8 bits; ``None`` if it was not measured.
        loss: of the metric, everything in 8 bits; ``None`` if it was not evaluated.
    """

    method: Method
    weights: WeightMethod
    corrections: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    not_quantizable: int = 0
    noise: float | None = None
    loss: float | None = None


class Tuning(PublicRecord):
    """What was found: the report beside the profile.

    Attributes:
        met: whether the budget holds with ``nodes`` kept; if not, it is the best that can be.
        complete: whether the search went to its end, or its time was up.
        calibrations: what was tried, the most promising first; ``calibration`` was taken.
        groups, nodes: kept in higher precision: first nodes of the groups, and all their nodes.
        reference, lowered, tuned: the metric of the model, with everything in 8 bits, and with ``nodes`` kept.
        allowed: the loss that is accepted.
        share: of the multiply-accumulates of weighted nodes that are in 8 bits, 0 to 1.
        reached: the same of those that any calibration sample reached.
        evaluations: of the metric, the model's own among them.
        trials: choices of groups that were evaluated, in their order.
        graph: sha256 of the lowered graph that ``tuned`` was measured on; empty where that is the model itself.
        words: what a paired test says of the loss that is left.
    """

    met: bool
    complete: bool
    calibrations: tuple[Calibration, ...]
    calibration: Calibration
    groups: tuple[str, ...]
    nodes: tuple[str, ...]
    reference: MetricValue
    lowered: MetricValue
    tuned: MetricValue
    allowed: float
    share: float
    reached: float
    evaluations: int
    trials: tuple[LayerTrial, ...]
    graph: str
    words: str
