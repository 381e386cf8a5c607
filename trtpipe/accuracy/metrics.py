"""The task metrics, by name; and one artifact's metric by itself, where nothing is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.custom import CustomMeter, evaluate, load_metric
from trtpipe.accuracy.detection import MeanAveragePrecision
from trtpipe.accuracy.meter import Meter, Scores, concatenated, ranks, select_output
from trtpipe.accuracy.reports import MetricValue
from trtpipe.backends.base import known_inputs
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trtpipe.accuracy.custom import Metric
    from trtpipe.artifact import Feed
    from trtpipe.config.recipe import EvaluationSettings
    from trtpipe.data.dataset import Dataset
    from trtpipe.isolation.reducer import Runner
    from trtpipe.isolation.worker import Limits


def make_meter(
    settings: EvaluationSettings, classes: Sequence[str] = (), own: Metric | None = None
) -> Callable[[], Meter]:
    """A function that makes one meter for each artifact.

    Args:
        classes: names of the classes that labels are numbers of; empty where only the numbers are known.
        own: the user-defined function, where it is loaded already.

    Raises:
        InputError: a user-defined function cannot be loaded.
    """
    metric, output = settings.metric, settings.output
    named: dict[str, Callable[[], Meter]] = {
        "top1": lambda: TopK(metric, output, len(classes)),
        "top5": lambda: TopK(metric, output, len(classes)),
        "cosine": lambda: Cosine(output),
        "map": lambda: MeanAveragePrecision(output),
        "wer": lambda: WordErrorRate(output),
    }
    if metric in named:
        return named[metric]
    function = own or load_metric(metric)
    return lambda: CustomMeter(function, lower_is_better=settings.lower_is_better)


def measure_metric(
    label: str,
    runner: Runner,
    reference: Runner,
    settings: EvaluationSettings,
    dataset: Dataset | None,
    own: Metric | None = None,
) -> MetricValue:
    """Run an artifact on the evaluation data.

    Args:
        reference: the FP32 graph, for metrics that compare with its outputs.
        dataset: the evaluation data; a function that runs the whole evaluation needs none.
        own: the user-defined function, if there is one.

    Raises:
        InputError: there is no labeled data, the metric does not fit it, or a user-defined function failed.
    """
    if own and own.whole:
        return evaluate(own, runner.infer, settings, label, runner.device)
    if dataset is None:
        raise InputError(f"{settings.metric} needs evaluation data", "add --eval-data DATA")
    meter = make_meter(settings, dataset.classes, own)()
    for sample in dataset:
        if sample.labels is None and meter.needs_labels:
            continue
        outputs = runner.infer(known_inputs(runner, sample.feed))
        wanted = outputs if meter.needs_labels else reference.infer(known_inputs(reference, sample.feed))
        meter.update(outputs, wanted, sample.labels)
    value = meter_value(label, runner.device, meter)
    if not value.samples:
        raise InputError(
            f"{dataset.name}: no labels, so {settings.metric} cannot be measured",
            "add labels (--labels NAME for an .npz), or choose --metric cosine",
        )
    return value


def meter_value(label: str, device: str, meter: Meter) -> MetricValue:
    """The metric of the artifact ``label`` that ran on ``device``; 0 samples where none had a label."""
    scores = meter.scores()
    return MetricValue(
        artifact=label,
        runner=device,
        metric=meter.metric,
        value=scores.value,
        samples=scores.samples,
        lower_is_better=meter.lower_is_better,
        chance=meter.chance,
        scores=scores,
    )


def own_metric(settings: EvaluationSettings | None, limits: Limits | None = None) -> Metric | None:
    """The user-defined function, if there is one.

    Raises:
        InputError: it cannot be loaded.
    """
    return load_metric(settings.metric, limits) if settings and settings.own else None


def check_floors(settings: EvaluationSettings | None, names: Iterable[str], limits: Limits) -> None:
    """Complain before the long work that a least value is of another metric than a user-defined function's.

    Raises:
        InputError: one is, or the function cannot be loaded. What ``evaluate(run)`` returns is not known before it ran,
            unless ``output`` names the figure that counts.
    """
    asked = list(names)
    if not asked or settings is None or not settings.own:
        return
    own = load_metric(settings.metric, limits)
    known = settings.output if own.whole else own.label
    if known and (other := next((name for name in asked if name != known), "")):
        raise InputError(f"min_metric {other}: the metric is {known}", f"write {known}=VALUE")


_RANKS = {"top1": 1, "top5": 5}


class TopK(Meter):
    """Share of samples whose label is among the ``k`` largest scores.

    Args:
        metric: ``top1`` or ``top5``.
        output: the output that holds the scores, shape ``[batch, classes]`` (further axes of length 1 are ignored);
            for ``top1`` it may hold the best class itself, one integer a row. Empty for the first output.
        named: how many classes have names, which must be as many as the output has; 0 where only numbers are known.
    """

    metric = ""

    def __init__(self, metric: str, output: str, named: int = 0) -> None:
        self.metric = metric
        self._k = _RANKS[metric]
        self._named = named
        self._classes = 0
        self._output = output
        self._hits: list[np.ndarray] = []
        self._seen: tuple[set[int], set[int]] = set(), set()

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        """Add one feed; labels are integers, one a row."""
        name, scores = select_output(outputs, self._output)
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InputError(f"{self.metric} needs one class number for each row", "choose a metric that fits the data")
        if scores.size == 0 or scores.shape[0] != len(labels) or scores.size % len(labels):
            raise InputError(
                f"output {name!r} has shape {list(scores.shape)} for {len(labels)} labels; {self.metric} needs "
                "[batch, classes]",
                "name the right output under [evaluation], or remove the metric",
            )
        if self._k == 1 and scores.size == len(labels) and scores.dtype.kind in "iu":
            self._hits.append(scores.ravel() == labels)
            self._see(scores.ravel(), labels)
            numbered = 1 + max(int(labels.max()), int(scores.max()))  # a model of numbers does not say how many
            self._classes = max(self._classes, self._named, numbered)
            return
        flat = scores.reshape(len(labels), -1).astype(np.float64)
        self._classes = flat.shape[1]
        if self._named and self._named != self._classes:
            raise InputError(
                f"the data has {self._named} classes, output {name!r} has {self._classes}: which is which is not known",
                'name the model\'s classes in the recipe, in their order: classes = [...] or classes = "FILE"',
            )
        wrong = labels[(labels < 0) | (labels >= flat.shape[1])]
        if wrong.size:
            raise InputError(
                f"label {int(wrong[0])} does not fit the {flat.shape[1]} classes of output {name!r}",
                "check the labels' order and number",
            )
        self._hits.append(ranks(flat, labels) < self._k)
        self._see(flat.argmax(axis=1), labels)

    def _see(self, found: np.ndarray, labels: np.ndarray) -> None:
        """Note the classes that were found and wanted; two of each are enough."""
        for known, values in zip(self._seen, (found, labels), strict=True):
            if len(known) < 2:
                known.update(np.unique(values)[:2].tolist())

    @property
    def doubt(self) -> str:
        """Of labels of one class: a build that always gives it would be as good."""
        _, labels = self._seen
        if len(labels) != 1 or sum(map(len, self._hits)) < 2:
            return ""
        return f"{min(labels)} is the label of all samples, so {self.metric} says nothing of the other classes"

    @property
    def chance(self) -> float | None:
        found, labels = self._seen
        uniform = min(1.0, self._k / self._classes) if self._classes else None
        if self._k == 1 and len(found) == 1 and len(labels) > 1:  # the same for all samples: it guesses
            return max(float(concatenated(self._hits).mean()), uniform or 0.0)
        return uniform

    def scores(self) -> Scores:
        """1 for every hit."""
        return Scores.of("hits", concatenated(self._hits))


class Cosine(Meter):
    """Mean cosine similarity of every row with the reference's row: for embeddings; needs no labels.

    Args:
        output: the output to look at, shape ``[batch, ...]``; empty for the first one.
    """

    metric = "cosine"
    needs_labels = False

    def __init__(self, output: str) -> None:
        self._output = output
        self._values: list[np.ndarray] = []

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        name, mine = select_output(outputs, self._output)
        if not mine.ndim or mine.dtype.kind != "f":
            raise InputError(f"output {name!r} holds no rows of floats for cosine", "name another output")
        a, b = (value.reshape(len(value), -1).astype(np.float64) for value in (mine, wanted[name]))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (a * b).sum(axis=1) / norms
        self._values.append(np.where(norms == 0, (a == b).all(axis=1).astype(np.float64), found))

    def scores(self) -> Scores:
        """The similarity of every row; NaN counts as -1, the lowest value."""
        values = concatenated(self._values)
        return Scores.of("means", np.where(np.isnan(values), -1.0, values))


#: The class that connectionist temporal classification (Graves et al. 2006) reads as "nothing new", by convention.
_BLANK = 0


class WordErrorRate(Meter):
    """Substitutions, deletions and insertions over the number of tokens in the labels.

    Tokens are whatever the labels count in: words, characters or word pieces.

    Args:
        output: token numbers ``[batch, length]`` (integers; negative ones are padding), or scores
            ``[batch, steps, classes]``, which are read greedily as CTC: the best class of each step, repeats
            collapsed, class 0 dropped. Empty for the first output.
    """

    metric = "wer"
    lower_is_better = True
    chance = 1.0  # of who says nothing

    def __init__(self, output: str) -> None:
        self._output = output
        self._errors: list[float] = []
        self._words: list[float] = []

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        """Add one feed; labels are integers ``[batch, length]``, padded with -1."""
        name, found = select_output(outputs, self._output)
        if labels is None or labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise InputError(
                "wer needs rows of token numbers as labels", "give integers [rows, length], padded with -1"
            )
        said = [row[row >= 0].tolist() for row in labels]
        understood = _tokens(name, found)
        if len(said) != len(understood):
            raise InputError(f"output {name!r} has {len(understood)} rows for {len(said)} labels", "check the labels")
        self._errors += [float(edit_distance(a, b)) for a, b in zip(said, understood, strict=True)]
        self._words += [float(len(row)) for row in said]

    def scores(self) -> Scores:
        """Edits and tokens of every sample."""
        return Scores.of("ratio", np.array(self._errors), np.array(self._words))


def _tokens(name: str, output: np.ndarray) -> list[list[int]]:
    if output.ndim == 2 and output.dtype.kind in "iu":
        return [row[row >= 0].tolist() for row in output]
    if output.ndim == 3 and output.dtype.kind == "f":
        best = output.argmax(axis=2)
        kept = (row[np.flatnonzero(np.diff(row, prepend=_BLANK - 1))] for row in best)
        return [row[row != _BLANK].tolist() for row in kept]
    raise InputError(
        f"output {name!r} is {output.dtype}{list(output.shape)}; wer reads token numbers [batch, length] or scores "
        "[batch, steps, classes]",
        "name the right output under [evaluation], or give a function of your own as the metric",
    )


def edit_distance(a: list[int], b: list[int]) -> int:
    """Levenshtein distance: the least number of substitutions, deletions and insertions from ``a`` to ``b``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
