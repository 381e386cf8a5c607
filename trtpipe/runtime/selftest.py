"""Does a package compute here what its lowered graph computed where it was made?"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trtpipe.accuracy.alignment import aligned, counted
from trtpipe.accuracy.comparison import comparable
from trtpipe.accuracy.output_metrics import OutputMetrics
from trtpipe.config.limits import OutputLimits
from trtpipe.errors import InputError
from trtpipe.reference.pytorch_outputs import read_reference
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    import numpy as np

    from trtpipe.delivery.reader import Package


@dataclass(frozen=True)
class OutputCheck:
    """One output against the reference, over all reference inputs.

    Attributes:
        name: of the output.
        max_abs: largest absolute difference of an element; of integers, 1 where any differs.
        cosine: cosine similarity; of integers, the share of equal values.
        snr_db: signal-to-noise ratio in dB.
        broken: the limits that do not hold; none where it passed.
    """

    name: str
    max_abs: float
    cosine: float
    snr_db: float
    broken: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class SelfTest(Summarized):
    """What a self-test found.

    Attributes:
        passed: whether every output is within the package's tolerances.
        device: what ran.
        plan: the engine; empty for the lowered graph.
        runner: what computed the reference outputs.
        feeds: how many runs of the model were compared.
        data: what the reference inputs are.
        outputs: one by one.
    """

    passed: bool
    device: str
    plan: str
    runner: str
    feeds: int
    data: str
    outputs: tuple[OutputCheck, ...]

    @property
    def summary(self) -> Summary:
        """Whether it passed, on what, and every output."""
        rows = tuple(
            (
                each.name,
                f"{each.max_abs:.3g}",
                f"{each.cosine:.6f}",
                "; ".join(each.broken) or "ok",
            )
            for each in self.outputs
        )
        said = f"{'PASSED' if self.passed else 'FAILED'}: {self.plan or 'the lowered graph'} ({self.device})"
        said = f"{said} against {self.runner} on {self.feeds} {self.data} feeds"
        return Summary(said, ("output", "largest difference", "cosine", "verdict"), rows)


def self_test(
    package: Package, run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]], device: str, plan: str
) -> SelfTest:
    """Run the reference inputs and compare.

    Args:
        run: the model.

    Raises:
        InputError: the package has no reference inputs, or they were changed.
    """
    model = package.model
    if model.reference is None:
        raise InputError(
            f"{package.path}: the package has no reference inputs to test with",
            "make it of a build whose lowered graph runs on a CPU, with trtpipe package make --samples DATA",
        )
    name = model.reference.file
    feeds, wanted = read_reference(io.BytesIO(package.read(name)), package.path / name)
    names = {tensor.name for tensor in model.outputs}
    if not len(feeds) == len(wanted) == model.reference.feeds or any(names != set(each) for each in wanted):
        raise InputError(
            f"{package.path / name}: does not hold {model.reference.feeds} feeds, and all outputs for them",
            "make the package again with trtpipe package make",
        )
    real = model.reference.data == "real"
    metrics: dict[str, OutputMetrics] = {}
    for number, (feed, outputs) in enumerate(zip(feeds, wanted, strict=True)):
        ordered = aligned(dict(run(feed)), outputs, model.unordered)
        _add(metrics, *counted(ordered, outputs, model.ignored, feed), model.tolerances, number, real=real)
    checks = tuple(_checked(each, metrics[each], model.tolerances.get(each, OutputLimits())) for each in metrics)
    return SelfTest(
        passed=not any(check.broken for check in checks),
        device=device,
        plan=plan,
        runner=model.reference.runner,
        feeds=len(feeds),
        data=model.reference.data,
        outputs=checks,
    )


def together(tests: Mapping[str, SelfTest]) -> SelfTest:
    """The self-tests of the models of one package, by their names, as one."""
    found = list(tests.values())
    if len(found) == 1:
        return found[0]

    def listed(texts: Iterable[str]) -> str:
        return ", ".join(dict.fromkeys(filter(None, texts)))

    return SelfTest(
        passed=all(test.passed for test in found),
        device=listed(test.device for test in found),
        plan=listed(f"{name}/{test.plan}" if test.plan else "" for name, test in tests.items()),
        runner=listed(test.runner for test in found),
        feeds=sum(test.feeds for test in found),
        data=listed(test.data for test in found),
        outputs=tuple(
            replace(each, name=f"{name}/{each.name}") for name, test in tests.items() for each in test.outputs
        ),
    )


def _add(
    metrics: dict[str, OutputMetrics],
    found: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    tolerances: Mapping[str, OutputLimits],
    number: int,
    *,
    real: bool,
) -> None:
    comparable(dict(found), dict(wanted))
    for name, value in wanted.items():
        known = metrics.setdefault(name, OutputMetrics(is_float=value.dtype.kind not in "biu", real=real))
        known.add_feed(found[name], value, counts[name], tolerances.get(name, OutputLimits()), number)


def _checked(name: str, metrics: OutputMetrics, limits: OutputLimits) -> OutputCheck:
    likeness = metrics.cosine if metrics.is_float else metrics.agreement
    return OutputCheck(name, metrics.max_abs, likeness or 0.0, metrics.snr_db, metrics.broken(limits))
