"""The regression gate: a build against a baseline, finding by finding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from trtpipe.artifact import PublicRecord, Record
from trtpipe.config.profile import AccuracyGate
from trtpipe.errors import InputError
from trtpipe.regression.baseline import calibration_data, require_sound
from trtpipe.regression.bundle import Build, entries
from trtpipe.regression.significance import SignificanceTest, compare_metric
from trtpipe.report.verdict import WORDS, Verdict
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from trtpipe.accuracy.reports import MetricValue, OutputParity, ParityReport
    from trtpipe.regression.baseline import Baseline

Status: TypeAlias = Literal["ok", "failed", "note", "skipped"]
#: What may fail, in the order of its importance.
GateName: TypeAlias = Literal["build", "accuracy", "latency"]
#: Without a metric, parity decides: an SNR lower than the baseline's by more than this is a regression.
_MORE_NOISE_DB = 3.0


class Finding(Record):
    """The result of one comparison.

    Attributes:
        gate: which exit code a failure has: ``accuracy`` (3), ``latency`` (4) or, of an engine that cannot be built
            with another TensorRT, ``build`` (5); other findings of ``build``, and those of ``size``, only inform.
        name: the compared value, such as ``top1 of lowered``.
        status: ``failed`` for a regression, ``note`` for a change that fails no gate.
        message: values and verdict.
    """

    gate: Literal["accuracy", "latency", "size", "build"]
    name: str
    status: Status
    message: str


class CheckReport(Summarized, PublicRecord):
    """The result of ``check``.

    Attributes:
        baseline, build: names of what was compared.
        verdict: on the build itself: what was executed, and on what.
        findings: in order of importance.
    """

    baseline: str
    build: str
    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> Summary:
        """The result, and every finding."""
        rows = tuple((each.gate, each.name, each.status, each.message) for each in self.findings)
        return Summary(self.headline, ("gate", "what", "result", "why"), rows)

    def gate_passed(self, gate: GateName) -> bool:
        """Whether no finding of ``gate`` failed."""
        return not any(finding.gate == gate and finding.status == "failed" for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether all gates passed."""
        return not any(finding.status == "failed" for finding in self.findings)

    @property
    def headline(self) -> str:
        """The result in one line: the word, the builds, and what was executed in the new one."""
        word = WORDS["passed" if self.passed else "failed"]
        if self.passed and self.verdict.accuracy.outcome == "not judged":
            word = f"{WORDS['not judged']} on real data"
        scope = f"; judged {self.verdict.scope}" if self.verdict.scope else ""
        return f"{word}: {self.build} against {self.baseline}{scope}"


@dataclass(frozen=True)
class Change:
    """How a build differs from the baseline's, apart from its figures.

    Attributes:
        weights: names of constants of the model that were changed, added or removed.
        all_weights: the number of constants in both.
        graph: whether the model's nodes differ.
        layers: ``node: old -> new`` for every node that computes in another format.
        settings: whether profile, calibration method or calibration data differ.
        recomputed: artifacts with the same cache key and other bytes: another CPU rounds otherwise.
    """

    weights: tuple[str, ...]
    all_weights: int
    graph: bool
    layers: tuple[str, ...]
    settings: bool
    recomputed: tuple[str, ...]

    @property
    def suspicious(self) -> str:
        """Why any loss is a regression, statistically significant or not; empty where the test decides.

        A retrained model differs in nearly all weights, and only a test on the samples can tell whether it is worse. A
        few changed weights, another graph around the same ones, or a layer that was put in another precision, are
        damage to this very model until a reason is given.
        """
        if self.weights and 2 * len(self.weights) <= self.all_weights:
            return f"{len(self.weights)} of {self.all_weights} weights of the model changed ({some(self.weights)})"
        if self.graph and not self.weights:
            return "the model's graph changed, around the same weights"
        if self.layers and self.settings:
            return f"{len(self.layers)} layers in another precision ({some(self.layers)})"
        return ""


def check_build(
    build: Build, baseline: Baseline, name: str, min_metric: Mapping[str, float | str] = MappingProxyType({})
) -> CheckReport:
    """Compare everything but latency, which needs both builds on this machine.

    Args:
        name: of the baseline's file, for messages.
        min_metric: metric -> its least value; of an error, its largest.

    Raises:
        InputError: the baseline is of another model, other data or another metric, its figures contradict each other,
            or a least value is of another metric.
    """
    require_sound(baseline, name)
    _comparable(build, baseline, name)
    change = _change(build, baseline)
    findings = [
        *_accuracy(build, baseline, name, change, min_metric),
        *_changes(build, baseline, change),
        *_builds(build, baseline),
        *_engines(build, baseline),
    ]
    return CheckReport(baseline=name, build=build.folder.name, verdict=build.manifest.verdict, findings=tuple(findings))


def _comparable(build: Build, baseline: Baseline, name: str) -> None:
    shared = baseline.weights.keys() & build.weights.keys()
    other = "they share no weight" if (baseline.weights or build.weights) and not shared else ""
    if broken := baseline.contract.difference(build.contract) or other:
        raise InputError(
            f"{name}: a baseline of another model: {broken}", "make one for this model: --save-baseline FILE"
        )
    if baseline.precision != build.manifest.precision:
        raise InputError(
            f"{name}: the baseline is {baseline.precision}, the build {build.manifest.precision}",
            "compare builds of one precision: trtpipe diff shows two of any kind",
        )


def _same_samples(parity: ParityReport, baseline: Baseline, name: str) -> None:
    """Raise InputError unless the figures are of the same data and the same metric."""
    if prepared := differences(_plain(baseline.preprocessing), _plain(parity.preprocessing), "[evaluation.image]"):
        raise InputError(
            f"{name}: the recipe changed, so that the samples are prepared otherwise: {'; '.join(prepared)}",
            "measure with the same recipe, or replace the baseline with --update REASON",
        )
    labels_differ = baseline.labels_digest != parity.labels_digest
    if labels_differ or baseline.data_digest != parity.data_digest:
        relabeled = labels_differ and baseline.inputs_digest == parity.inputs_digest
        what = "with other labels: the inputs are the same" if relabeled else "on other data"
        raise InputError(
            f"{name}: the baseline was measured {what} ({baseline.data}; now {parity.data})",
            "measure on the same samples, or replace it with --update REASON",
        )
    if baseline.evaluation != parity.evaluation:
        raise InputError(
            f"{name}: the baseline has another metric ({baseline.evaluation or 'none'}; now "
            f"{parity.evaluation or 'none'})",
            "use the same one, or --update REASON",
        )
    if len({(each.metric, each.lower_is_better) for each in (*baseline.metrics, *parity.metrics)}) > 1:
        raise InputError(
            f"{name}: metrics: the baseline's and the build's differ in name, or in which values are better",
            "use the file as trtpipe wrote it, or --update REASON",
        )


def _plain(record: Record | None) -> dict[str, Any]:
    return {} if record is None else record.to_dict()


def _change(build: Build, baseline: Baseline) -> Change:
    old, new = baseline.weights, build.weights
    weights = tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))
    before, after = entries(baseline.artifacts), entries(build.manifest.artifacts)
    recomputed = tuple(
        label
        for label in sorted(before.keys() & after.keys())
        if label in ("simplified", "statistics", "ranges", "lowered")
        and before[label].key == after[label].key != ""
        and before[label].digest != after[label].digest
    )
    layers = tuple(differences(baseline.nodes, build.nodes))
    settings = baseline.settings != build.manifest.settings
    settings = settings or _plain(baseline.calibration) != _plain(calibration_data(build.manifest))
    return Change(weights, len(old.keys() | new.keys()), baseline.graph != build.graph, layers, settings, recomputed)


def _accuracy(
    build: Build, baseline: Baseline, name: str, change: Change, min_metric: Mapping[str, float | str]
) -> Iterator[Finding]:
    """All that verification measured; a build without one is not as good as one that was judged."""
    parity = build.parity
    if parity is None:
        message = f"the baseline was verified, and this build was not: {build.unverified}"
        yield Finding(gate="accuracy", name="verification", status="failed", message=message)
        return
    _same_samples(parity, baseline, name)
    if not parity.passed:
        reasons = "; ".join(parity.reasons)
        yield Finding(gate="accuracy", name="accuracy gate of the build", status="failed", message=reasons)
    yield from _floors(parity, min_metric)
    old = {value.artifact: value for value in baseline.metrics}
    for value in parity.metrics:
        if value.artifact in old and value.artifact != "simplified":
            yield _metric(old[value.artifact], value, parity.max_drop or 0.0, change)
    yield from _function(parity, baseline)
    yield from _parity(parity, baseline)


def _floors(parity: ParityReport, min_metric: Mapping[str, float | str]) -> Iterator[Finding]:
    """The least values that were asked for, whatever the baseline's are."""
    for name, given in min_metric.items():
        values = [value for value in parity.metrics if value.metric == name]
        if not values:
            known = ", ".join(sorted({value.metric for value in parity.metrics})) or "no metric"
            raise InputError(f"min_metric {name}: the build has {known}", "name the metric that it was built with")
        limit = AccuracyGate(min_metric={name: given}).of(name).min_metric[name]
        for value in values:
            missed = value.misses(limit)
            message = f"{value.value:.4f}, {'at most' if value.lower_is_better else 'at least'} {limit:g} wanted"
            yield Finding(
                gate="accuracy",
                name=f"{name} of {value.artifact}, absolute",
                status="failed" if missed else "ok",
                message=message,
            )


def _metric(old: MetricValue, new: MetricValue, max_drop: float, change: Change) -> Finding:
    test, loss = compare_metric(old, new), new.loss(old)
    status: Status = "note" if loss > 0 else "ok"
    verdict = ""
    if test.significant and loss > 0:
        status, verdict = "failed", "Regression"
    elif loss > 0 and change.suspicious:
        status, verdict = "failed", f"Regression: {change.suspicious}"
    elif test.p is None and loss > max_drop:
        status, verdict = "failed", f"Regression: loss {loss:.4g}, limit {max_drop:g}"
    parts = [f"{old.value:.4f} before, {new.value:.4f} now", verdict, *_significance(test)]
    message = ". ".join(part for part in parts if part) + "."
    return Finding(gate="accuracy", name=f"{new.metric} of {new.artifact}", status=status, message=message)


def _significance(test: SignificanceTest) -> Iterator[str]:
    if test.p is None:
        yield test.name[:1].upper() + test.name[1:]
    else:
        yield f"{'Statistically' if test.significant else 'Not statistically'} significant (p = {test.p:.3g})"
        yield f"{test.name[:1].upper()}{test.name[1:]}; 95 % interval of the loss {test.low:+.4g} to {test.high:+.4g}"
    if test.detectable:
        yield f"Minimum detectable drop (80 % power): {test.detectable:.4g}"


def _function(parity: ParityReport, baseline: Baseline) -> Iterator[Finding]:
    """A changed user-defined metric: a note only, because the digest covers every file that it read."""
    old, new = baseline.evaluation_digest, parity.evaluation_digest
    if old and new and old != new:
        message = (
            f"the file of {parity.evaluation}, or one that it reads, changed: if that is the metric or its data, "
            "the metric values are not comparable"
        )
        yield Finding(gate="build", name="metric", status="note", message=message)


def _parity(parity: ParityReport, baseline: Baseline) -> Iterator[Finding]:
    """The SNR of every output; it enters the gate only where there is no metric."""
    old = {(c.artifact, output.output): output for c in baseline.comparisons for output in c.outputs}
    decides = not parity.metrics
    for comparison in parity.comparisons:
        for output in comparison.outputs:
            before = old.get((comparison.artifact, output.output))
            if before is not None and comparison.artifact != "simplified":
                yield _output(comparison.artifact, before, output, decides=decides)


def _output(artifact: str, old: OutputParity, new: OutputParity, *, decides: bool) -> Finding:
    if new.agreement is None:
        fell = 0.0 if old.snr_db == new.snr_db else old.snr_db - new.snr_db
        worse = math.isnan(new.snr_db) or fell > _MORE_NOISE_DB
        words = f"SNR {old.snr_db:.1f} dB before, {new.snr_db:.1f} dB now; "
        words += f"mean difference {old.mean_abs:.3g} before, {new.mean_abs:.3g} now"
    else:  # a difference is 1: their mean is both their share and their power
        worse = new.mean_abs > 2 * old.mean_abs
        words = f"exact match {1 - old.mean_abs:.2%} before, {1 - new.mean_abs:.2%} now"
    return Finding(
        gate="accuracy",
        name=f"parity of {artifact}, output {new.output}",
        status=("failed" if decides else "note") if worse else "ok",
        message=words,
    )


def _changes(build: Build, baseline: Baseline, change: Change) -> Iterator[Finding]:
    """What differs in the model, its layers and its calibration: each called what it is."""

    def note(name: str, message: str) -> Finding:
        return Finding(gate="build", name=name, status="note", message=message)

    if change.weights:
        yield note("weights", f"{len(change.weights)} of {change.all_weights} changed: {some(change.weights)}")
    if change.graph:
        yield note("graph", "the nodes of the exported model changed")
    if change.layers:
        yield note("precision of layers", f"{len(change.layers)} changed: {some(change.layers)}")
    old, new = baseline.calibration, calibration_data(build.manifest)
    if prepared := differences(_plain(old and old.preprocessing), _plain(new and new.preprocessing), "[data.image]"):
        yield note("recipe", f"calibration samples are prepared otherwise: {'; '.join(prepared)}")
    if old and new and old.digest != new.digest:
        yield note("calibration data", f"other samples: {old.source} before, {new.source} now")
    if change.recomputed:
        labels = ", ".join(change.recomputed)
        yield note("artifacts", f"{labels}: other bytes under the same key, as another CPU rounds them")
    if build.parity is not None and baseline.inputs_digest != build.parity.inputs_digest:
        yield note("inputs", "the same data was decoded to other values: another version of a library, or another CPU")


def _builds(build: Build, baseline: Baseline) -> Iterator[Finding]:
    """Settings and tools that differ: usually the cause of every other difference."""
    for name, old, new in (
        ("settings", baseline.settings, build.manifest.settings),
        ("toolchain", baseline.toolchain, build.manifest.toolchain),
    ):
        found = differences(old, new)
        if found:
            yield Finding(gate="build", name=name, status="note", message="; ".join(found))


def _engines(build: Build, baseline: Baseline) -> Iterator[Finding]:
    before, after = entries(baseline.artifacts), entries(build.manifest.artifacts)
    for label in sorted(label for label in before.keys() & after.keys() if label.startswith("engine:")):
        old, new = before[label].files[0].size, after[label].files[0].size
        target = label.partition(":")[2]
        parts = [f"{old} bytes before, {new} now ({new / max(old, 1) - 1:+.1%})"]
        one, two = baseline.engines.get(target), build.engines.get(target)
        if one is not None and two is not None:
            parts += differences(one.model_dump(exclude={"size"}), two.model_dump(exclude={"size"}))
        changed = len(parts) > 1 or abs(new / max(old, 1) - 1) > 0.01
        yield Finding(gate="size", name=label, status="note" if changed else "ok", message="; ".join(parts))
    for label in sorted(label for label in before if label.startswith("engine:") and label not in after):
        yield Finding(gate="size", name=label, status="note", message="in the baseline, not in this build")


def differences(old: object, new: object, path: str = "") -> list[str]:
    """``key.key: old -> new`` for every leaf in which two JSON values differ; ``none`` where there is none."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            found += differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        return found
    before, now = ("none" if value is None else value for value in (old, new))
    return [] if old == new else [f"{path}: {before} -> {now}"]


def some(names: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
