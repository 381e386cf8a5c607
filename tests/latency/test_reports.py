from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from trtpipe.errors import InputError
from trtpipe.latency.reports import Latency, LatencyReport

FIGURE = Latency(
    artifact="engine:sm89",
    runner="tensorrt 10.16 on an L4",
    on_gpu=True,
    shapes={"x": (1, 3, 8, 8)},
    warmup_seconds=0.2,
    iterations=100,
    min=1.0,
    max=2.0,
    mean=1.2,
    median=1.1,
    p90=1.5,
    p95=1.6,
    p99=1.9,
    cov=3.0,
    data="synthetic",
    throughput_qps=833.0,
    wall_seconds=0.12,
)


def test_a_report_survives_its_file(tmp_path):
    report = LatencyReport(machine={"cpu": "x", "cores": 2}, measurements=(FIGURE,), notes=("n",))
    report.write(tmp_path / "latency.json")
    assert LatencyReport.read(tmp_path / "latency.json") == report


def test_a_file_that_is_none_names_the_field(tmp_path):
    (tmp_path / "latency.json").write_text('{"machine": {}, "measurements": [], "notes": 3, "schema_version": 3}')
    with pytest.raises(InputError, match=r"latency\.json: notes: .*"):
        LatencyReport.read(tmp_path / "latency.json")


@pytest.mark.parametrize("value", ["NaN", "Infinity", -1.0])
def test_times_that_none_can_be(tmp_path, value):
    LatencyReport(machine={}, measurements=(FIGURE,)).write(tmp_path / "latency.json")
    content = json.loads((tmp_path / "latency.json").read_text())
    content["measurements"][0]["median"] = value
    (tmp_path / "latency.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"latency\.json: measurements\.0\.median"):
        LatencyReport.read(tmp_path / "latency.json")


def test_figures_do_not_change():
    with pytest.raises(ValidationError):
        FIGURE.median = 0.1
