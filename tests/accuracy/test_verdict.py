from __future__ import annotations

import pytest
from pydantic import ValidationError

from trtpipe.accuracy.reports import Comparison, MetricValue, OutputParity, ParityReport
from trtpipe.accuracy.verdict import stage_of, with_verdict
from trtpipe.config.profile import OutputTolerance


def comparison(artifact, against, passed=True):
    output = OutputParity(
        output="y", max_abs=1, max_rel=1, mean_abs=0.5, mean_rel=1, median_abs=1, scale=2, cosine=0.9, snr_db=3,
        worst_feed=4, worst_index=(0, 2), tolerance=OutputTolerance(), passed=passed,
    )  # fmt: skip
    return Comparison(artifact=artifact, against=against, runner="CPU", outputs=(output,))


def report(failing=(), metrics=(), pytorch=True, **fields):
    """A whole chain; ``failing`` are pairs (artifact, against)."""

    def made(*pairs):
        return tuple(comparison(*pair, passed=pair not in failing) for pair in pairs)

    return with_verdict(
        ParityReport(
            precision="int8", reference="model", data="d", data_digest="0", synthetic=False, feeds=5, samples=5,
            pytorch=made(*((a, "pytorch") for a in ("model", "simplified", "lowered"))) if pytorch else (),
            comparisons=made(("simplified", "model"), ("lowered", "model"), ("engine:sm89", "model")),
            links=made(("lowered", "simplified"), ("engine:sm89", "lowered")),
            metrics=metrics, max_drop=0.01, passed=True, **fields,
        )
    )  # fmt: skip


def value(artifact, number, lower_is_better=False):
    return MetricValue(
        artifact=artifact, runner="CPU", metric="m", value=number, samples=9, lower_is_better=lower_is_better
    )


def test_a_whole_chain_that_holds():
    found = report()
    assert (found.passed, found.reasons, found.failing_stage) == (True, (), "")


@pytest.mark.parametrize(
    ("failing", "stage"),
    [
        ([("model", "pytorch"), ("simplified", "pytorch")], "export"),
        ([("simplified", "model"), ("lowered", "model"), ("engine:sm89", "model")], "simplify"),
        ([("lowered", "model"), ("lowered", "simplified"), ("engine:sm89", "model")], "lower"),
        ([("engine:sm89", "model"), ("engine:sm89", "lowered")], "compile sm89"),
        ([("lowered", "model")], "lower"),  # each link holds, but together they do not
        ([("engine:sm89", "model"), ("lowered", "simplified")], "lower"),
    ],
)
def test_the_first_stage_that_broke_is_named(failing, stage):
    found = report(failing)
    assert not found.passed
    assert found.failing_stage == stage


@pytest.mark.parametrize("pair", [("lowered", "simplified"), ("engine:sm89", "lowered"), ("lowered", "pytorch")])
def test_links_alone_decide_nothing(pair):
    assert report([pair]).passed


def test_reasons_say_where():
    [reason] = report([("lowered", "model")]).reasons
    assert "mean 0.5, max 1 (feed 4, element [0, 2])" in reason


def test_reasons_give_what_did_not_hold_and_its_limit():
    worse = comparison("lowered", "model", passed=False)
    limits = OutputTolerance(min_snr_db=12, min_cosine=0.97)
    output = worse.outputs[0].model_copy(
        update={"broken": ("cosine", "snr"), "tolerance": limits, "about_mean": True, "spread": 0.4}
    )
    [reason] = with_verdict(report().model_copy(
        update={"comparisons": (worse.model_copy(update={"outputs": (output,)}),), "links": ()}
    )).reasons  # fmt: skip
    assert "cosine 0.9000, limit 0.97; SNR 3.0 dB, limit 12 dB (the samples change it by 0.4 rms)" in reason


@pytest.mark.parametrize(("lower_is_better", "lowered", "passed"), [
    (False, 0.895, True), (False, 0.85, False), (False, 0.99, True),
    (True, 0.905, True), (True, 0.95, False), (True, 0.1, True),
])  # fmt: skip
def test_a_metric_that_falls_or_an_error_that_rises(lower_is_better, lowered, passed):
    found = report(metrics=(value("model", 0.9, lower_is_better), value("lowered", lowered, lower_is_better)))
    assert found.passed is passed
    assert found.failing_stage == ("" if passed else "lower")
    if not passed:
        assert ("above" if lower_is_better else "below") in found.reasons[0]


def test_a_metric_cannot_be_nan():
    """NaN compares false with every bound, so that what forgets to ask lets it pass."""
    with pytest.raises(ValidationError, match="finite number"):
        value("lowered", float("nan"))


def test_stages_by_their_artifacts():
    assert [stage_of(a) for a in ("model", "simplified", "lowered", "engine:sm90")] == [
        "export", "simplify", "lower", "compile sm90",
    ]  # fmt: skip


def guessed(number, chance, samples=64, **fields):
    return value("model", number, **fields).model_copy(update={"chance": chance, "samples": samples})


@pytest.mark.parametrize(
    ("reference", "passed"),
    [
        (guessed(0.0, 1 / 6), False),
        (guessed(0.24, 1 / 6), False),  # 0.167 + 1.645 * 0.0466 = 0.243
        (guessed(0.25, 1 / 6), True),
        (guessed(0.11, 0.1, samples=10_000), True),
        (guessed(0.0, 0.0), False),  # mean average precision
        (guessed(1.0, 1.0, lower_is_better=True), False),  # word error rate of who says nothing
        (guessed(0.4, 1.0, lower_is_better=True), True),
        (guessed(0.0, None), True),
    ],
)
def test_a_reference_no_better_than_guessing_is_not_passed(reference, passed):
    equal = reference.model_copy(update={"artifact": "lowered"})
    found = report(metrics=(reference, equal))
    assert found.passed is passed
    if not passed:
        [reason] = found.reasons
        assert reason.startswith("model: m ")
        assert "no better than guessing" in reason
        assert found.failing_stage == ""


@pytest.mark.parametrize(
    ("lowered", "limit", "lower_is_better", "passed"),
    [(0.89, 0.9, False, False), (0.9, 0.9, False, True), (0.31, 0.3, True, False), (0.3, 0.3, True, True)],
)
def test_a_least_value_holds_whatever_the_reference_has(lowered, limit, lower_is_better, passed):
    made = report(metrics=(value("model", lowered, lower_is_better), value("lowered", lowered, lower_is_better)))
    found = with_verdict(made.model_copy(update={"min_metric": {"m": limit}}))
    assert found.passed is passed
    assert len(found.reasons) == (0 if passed else 2)
