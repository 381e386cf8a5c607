from __future__ import annotations

import json
import math

import pytest

from trtpipe.accuracy.reports import Comparison, MetricValue, OutputParity, ParityReport
from trtpipe.config.profile import OutputTolerance
from trtpipe.errors import InputError


def output(passed: bool = True, **fields) -> OutputParity:
    figures = {"max_abs": 0.5, "max_rel": 0.1, "mean_abs": 0.1, "mean_rel": 0.01, "median_abs": 0.05, "scale": 1.0}
    return OutputParity(
        output="y",
        cosine=0.99,
        snr_db=20.0,
        worst_feed=3,
        tolerance=OutputTolerance(atol=1.0),
        passed=passed,
        **(figures | fields),
    )


def report(*comparisons: Comparison) -> ParityReport:
    return ParityReport(
        precision="int8",
        reference="model",
        data="64 images",
        data_digest="0" * 64,
        synthetic=False,
        feeds=8,
        samples=64,
        comparisons=comparisons,
        metrics=(MetricValue(artifact="model", runner="CPU", metric="top1", value=0.9, samples=64),),
        max_drop=0.01,
        not_run={"engine:sm89": "no GPU"},
        passed=True,
    )


def test_a_comparison_passes_when_all_its_outputs_do():
    assert Comparison(artifact="lowered", against="model", runner="CPU", outputs=(output(), output())).passed
    assert not Comparison(
        artifact="lowered", against="model", runner="CPU", outputs=(output(), output(passed=False))
    ).passed


def test_figures_that_are_no_numbers_survive_the_file(tmp_path):
    odd = output(max_abs=math.nan, max_rel=math.inf).model_copy(update={"snr_db": -math.inf, "cosine": None})
    written = report(Comparison(artifact="lowered", against="model", runner="CPU", outputs=(odd,)))
    written.write(tmp_path / "parity.json")
    found = ParityReport.read(tmp_path / "parity.json").comparisons[0].outputs[0]
    assert math.isnan(found.max_abs)
    assert (found.max_rel, found.snr_db, found.cosine) == (math.inf, -math.inf, None)


def test_equal_reports_are_equal_files(tmp_path):
    for name in ("a", "b"):
        report(Comparison(artifact="lowered", against="model", runner="CPU", outputs=(output(),))).write(
            tmp_path / name
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda old: old | {"schema_version": 2, "broke": "lower"}, "is of schema 2"),
        (lambda old: {name: old[name] for name in old if name != "schema_version"}, "has no schema_version"),
    ],
)
def test_other_schema_versions_are_refused_by_name(tmp_path, edit, field):
    path = tmp_path / "parity.json"
    path.write_text(json.dumps(edit(json.loads(report().to_file()))))
    with pytest.raises(InputError, match=rf"parity\.json: {field}.*this one reads 4"):
        ParityReport.read(path)
