"""The self-test against the parity check of a verification, whose rule it is to be."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.accuracy.alignment import counted
from trtpipe.accuracy.comparison import OutputComparison
from trtpipe.accuracy.output_metrics import Differences
from trtpipe.config.formats import Precision
from trtpipe.config.limits import OutputLimits
from trtpipe.config.profile import Tolerance
from trtpipe.delivery.reader import Package
from trtpipe.reference.pytorch_outputs import read_reference
from trtpipe.runtime import selftest


def found_by_the_self_test(mine, theirs, limits: OutputLimits, *, real: bool) -> tuple[str, ...]:
    metrics: dict = {}
    for number, (found, wanted) in enumerate(zip(mine, theirs, strict=True)):
        values = counted({"y": found}, {"y": wanted}, {}, {})
        selftest._add(metrics, *values, {"y": limits}, number, real=real)
    return selftest._checked("y", metrics["y"], limits).broken


@given(
    seed=st.integers(0, 10_000),
    noise=st.sampled_from([0.0, 1e-6, 1e-3, 0.03, 0.3, 3.0]),
    stat=st.sampled_from(["elemwise", "max", "mean", "median"]),
    feeds=st.integers(1, 5),
    real=st.booleans(),
    integers=st.booleans(),
)
def test_breaks_the_very_limits_that_a_verification_breaks(seed, noise, stat, feeds, real, integers) -> None:
    generator = np.random.default_rng(seed)
    theirs = [generator.normal(size=(3, 7)).astype(np.float32) + 2 for _ in range(feeds)]
    mine = [each + noise * generator.normal(size=each.shape).astype(np.float32) for each in theirs]
    if integers:
        theirs, mine = ([np.round(each).astype(np.int64) for each in side] for side in (theirs, mine))
    values = {"atol": 0.01, "rtol": 0.02, "stat": stat, "min_cosine": 0.99, "min_snr_db": 20.0, "min_agreement": 0.9}
    comparison = OutputComparison(Tolerance(**values), Precision("fp16"), real=real)
    for found, wanted in zip(mine, theirs, strict=True):
        comparison.add({"y": found}, {"y": wanted})
    (wanted,) = comparison.results()
    assert found_by_the_self_test(mine, theirs, OutputLimits(**values), real=real) == wanted.broken


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(bad) -> None:
    theirs = np.ones((2, 3), np.float32)
    mine = theirs.copy()
    mine[0, 0] = bad
    limits = OutputLimits(atol=1e9, rtol=1e9, stat="mean")
    assert "difference" in found_by_the_self_test([mine], [theirs], limits, real=True) or np.isinf(bad)
    assert found_by_the_self_test([mine], [theirs], OutputLimits(atol=1.0, stat="max"), real=True)


def test_differences_are_those_of_the_definition() -> None:
    found = Differences.of(np.float32([1, 2, 4]), np.float32([1, 1, 2]), OutputLimits(atol=1.0, rtol=0.5))
    assert (found.max_absdiff, found.mean_absdiff, found.median_absdiff) == (2.0, 1.0, 1.0)
    assert (found.max_reldiff, found.mean_reldiff) == (1.0, pytest.approx(2 / 3))
    assert not found


def test_what_the_build_does_not_compare_the_self_test_does_not_either(package) -> None:
    """Rows in another order, and values where the reference has padding."""
    found = Package.opened(package)
    name = found.model.reference.file
    _, wanted = read_reference(io.BytesIO(found.read(name)), package / name)

    def passes(change, **fields) -> bool:
        answers = iter(change(outputs["y"]) for outputs in wanted)
        found.model = replace(Package.opened(package).model, **fields)
        return selftest.self_test(found, lambda feed: {"y": next(answers)}, "d", "").passed

    padding = float(wanted[0]["y"][0, 0])
    assert passes(lambda y: y)
    assert not passes(lambda y: y[:, ::-1])
    assert passes(lambda y: y[:, ::-1], unordered=("y",))
    assert not passes(lambda y: np.where(y == np.float32(padding), 1e3, y).astype(np.float32))
    assert passes(lambda y: np.where(y == np.float32(padding), 1e3, y).astype(np.float32), ignored={"y": padding})
