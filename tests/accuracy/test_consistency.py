"""Records that a verification cannot have written are refused, with the field's name."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.accuracy.consistency import require_consistent, require_report
from trtpipe.accuracy.meter import Scores
from trtpipe.accuracy.reports import Comparison, MetricValue, OutputParity, ParityReport
from trtpipe.accuracy.verdict import with_verdict
from trtpipe.config.profile import OutputTolerance
from trtpipe.errors import InputError

HITS = np.array([1, 1, 1, 0], float)


def metric(artifact, **fields):
    plain = {"metric": "top1", "value": 0.75, "samples": 4, "chance": 0.1, "scores": Scores.of("hits", HITS)}
    return MetricValue(artifact=artifact, runner="CPU", **(plain | fields))


def comparison(**fields):
    plain = {
        "output": "y", "max_abs": 0.1, "max_rel": 0.1, "mean_abs": 0.01, "mean_rel": 0.1, "median_abs": 0.01,
        "scale": 1.0, "spread": 0.5, "about_mean": True, "cosine": 0.9995, "snr_db": 30.0, "worst_feed": 0,
        "tolerance": OutputTolerance(), "passed": True,
    }  # fmt: skip
    return Comparison(artifact="lowered", against="model", runner="CPU", outputs=(OutputParity(**(plain | fields)),))


GOOD = {
    "metrics": (metric("model"), metric("lowered")),
    "comparisons": (comparison(),),
    "evaluation": "top1",
    "samples": 4,
}


def test_what_a_verification_writes_is_taken():
    require_consistent("b.json", **GOOD)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"samples": 0}, "samples"),
        ({"comparisons": ()}, "comparisons"),
        ({"comparisons": (comparison(), comparison())}, "comparisons: lowered is there twice"),
        ({"comparisons": (comparison(cosine=1.2),)}, "cosine"),
        ({"comparisons": (comparison(passed=False),)}, "passed"),
        ({"comparisons": (comparison(mean_abs=0.2),)}, "mean_abs"),
        ({"comparisons": (comparison(snr_db=50.0),)}, "snr_db: 50 dB, but"),
        ({"comparisons": (comparison(mean_abs=0.09),)}, "snr_db: 30 dB, but"),
        ({"comparisons": (comparison(snr_db=np.inf),)}, "snr_db"),
        ({"comparisons": (comparison(snr_db=10.0, tolerance=OutputTolerance(min_snr_db=17)),)}, "snr_db: 10 is below"),
        ({"comparisons": (comparison(tolerance=OutputTolerance(min_cosine=0.9999)),)}, "cosine: 0.9995 is below"),
        ({"metrics": (metric("model", chance=1.5), metric("lowered"))}, "metrics: model: chance"),
        ({"metrics": ()}, "metrics"),
        ({"metrics": GOOD["metrics"][:1]}, "metrics: not of the artifacts that were compared: lowered"),
        ({"metrics": (*GOOD["metrics"], metric("lowered"))}, "metrics: lowered is there twice"),
        ({"metrics": (metric("model"), metric("lowered", metric="top5"))}, "metrics: lowered: metric"),
        ({"metrics": (metric("model"), metric("lowered", value=-5.0, scores=None))}, "metrics: lowered: value: -5.0"),
        ({"metrics": (metric("model"), metric("lowered", scores=None))}, "metrics: lowered: scores: missing"),
        ({"metrics": (metric("model"), metric("lowered", value=0.1))}, "value: 0.1, but the scores"),
        ({"metrics": (metric("model"), metric("lowered", samples=3))}, "samples: 3, with the scores of 4"),
        ({"metrics": (metric("model"), metric("lowered", samples=0, scores=None))}, "samples: 0 samples"),
        ({"metrics": (metric("model", lower_is_better=True), metric("lowered", lower_is_better=True))}, "lower_is"),
        (
            {"metrics": (metric("model"), metric("lowered", scores=Scores.of("hits", HITS * 2), value=1.5))},
            "value: 1.5 cannot be",
        ),
        (
            {"metrics": (metric("model"), metric("lowered", scores=Scores.of("means", HITS)))},
            "scores: of kind means",
        ),
    ],
)
def test_what_it_cannot_have_written_is_refused_by_name(fields, named):
    with pytest.raises(InputError) as caught:
        require_consistent("b.json", **(GOOD | fields))
    assert named in caught.value.message
    assert caught.value.message.startswith("b.json: ")


def test_a_verdict_that_does_not_follow_from_the_figures():
    report = with_verdict(
        ParityReport(
            precision="int8", reference="model", data="d", data_digest="0", evaluation="top1", synthetic=False, feeds=4,
            samples=4, comparisons=GOOD["comparisons"], metrics=GOOD["metrics"], max_drop=0.01, passed=True,
        )
    )  # fmt: skip
    require_report("parity.json", report)
    worse = metric("lowered", value=0.25, scores=Scores.of("hits", 1 - HITS))
    with pytest.raises(InputError, match=r"parity\.json: passed"):
        require_report("parity.json", report.model_copy(update={"metrics": (GOOD["metrics"][0], worse)}))


def test_no_more_is_unpacked_than_the_samples_need():
    """A gigabyte of zeros deflates to a megabyte."""
    bomb = Scores.of("hits", np.zeros(1 << 22)).model_copy(update={"samples": 4})
    with pytest.raises(InputError, match="more than 4 scores"):
        bomb.arrays()
    with pytest.raises(InputError, match="at most"):
        bomb.model_copy(update={"samples": 1 << 40}).arrays()
