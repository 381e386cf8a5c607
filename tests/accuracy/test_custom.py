from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trtpipe.accuracy import custom
from trtpipe.accuracy.custom import CustomMeter, digest_of_code, load_metric
from trtpipe.config.recipe import EvaluationSettings
from trtpipe.errors import InputError


@pytest.fixture
def metric(tmp_path):
    """The metric ``f`` of a file with this body."""

    def write(body, name="f"):
        (tmp_path / "metrics.py").write_text(f"import numpy as np\n{body}\n")
        return load_metric(f"{tmp_path / 'metrics.py'}:{name}")

    return write


def answer(feed):
    return {"y": feed["x"] * 2}


def evaluate(metric, output=""):
    settings = EvaluationSettings(metric=metric.source, output=output)
    return custom.evaluate(metric, answer, settings, "lowered", "onnxruntime")


class TestWhole:
    def test_it_runs_the_model_itself_and_the_first_figure_counts(self, metric):
        found = evaluate(
            metric("def f(run, limit=None): return {'n': 4.0, 'acc': float(run({'x': np.ones(1)})['y'][0]), 'b': 7}")
        )
        assert (found.artifact, found.runner) == ("lowered", "onnxruntime")
        assert (found.metric, found.value, found.samples, found.others, found.scores) == (
            "acc",
            2.0,
            4,
            {"b": 7.0},
            None,
        )

    def test_another_metric_by_name(self, metric):
        f = metric("def f(run): return {'a': 1.0, 'b': 2.0}")
        assert evaluate(f, "b").value == 2
        with pytest.raises(InputError, match="gives no metric 'c'") as caught:
            evaluate(f, "c")
        assert "a, b" in caught.value.remedy

    def test_scores_of_single_samples(self, metric):
        found = evaluate(metric("def f(run): return {'acc': 0.75, 'per_sample': [1, 0, 1, 1]}"))
        assert found.scores is not None
        assert (found.scores.kind, found.samples, found.scores.value) == ("hits", 4, 0.75)

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            ("raise ValueError('no such label')", "raised ValueError: no such label"),
            ("raise SystemExit(3)", "raised SystemExit"),
            ("return {'a': float('nan')}", "returned nan for 'a'"),
            ("return {'a': float('inf')}", "returned inf for 'a'"),
            ("return 0.5", "returned float, not a dictionary"),
            ("return {'n': 3}", "returned no number"),
            ("return {'a': 'high'}", "returned no number"),
            ("return {'a': 1.0, 'per_sample': [1, np.nan]}", "'per_sample' with NaN"),
            ("return {'a': 1.0, 'per_sample': [1, 1e39]}", "'per_sample' with .*beyond 3e38"),
            ("return {'a': 1.0, 'per_sample': np.ones(5 << 20)}", "returned 5,242,880 scores"),
            ("return {'a': 1.0, 'n': 4, 'per_sample': np.ones(5)}", "returned 5 scores in 'per_sample'; 4 samples"),
            ("return {'a': 1.0, 'per_sample': 'x'}", "'per_sample' that holds no numbers"),
        ],
    )
    def test_what_is_no_result(self, metric, body, complaint):
        with pytest.raises(InputError, match=complaint) as caught:
            evaluate(metric(f"def f(run):\n    {body}"))
        assert "metrics.py:f" in caught.value.message
        assert caught.value.exit_code == 2


class TestPerFeed:
    def test_one_number_a_row(self, metric):
        meter = CustomMeter(
            metric("def f(outputs, labels): return outputs['y'][:, 0] == labels"), lower_is_better=False
        )
        meter.update({"y": np.array([[1], [2]])}, {}, np.array([1, 1]))
        meter.update({"y": np.array([[3]])}, {}, np.array([3]))
        assert (meter.scores().samples, meter.scores().value) == (3, pytest.approx(2 / 3))

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            ("return ['a']", "not numbers"),
            ("return '1.0'", "str, not numbers"),
            ("return np.array([b'1'])", "not numbers"),
            ("return np.ones(1, complex)", "not numbers"),
            ("return np.nan", "NaN"),
            ("return 1e39", "beyond 3e38"),
            ("1 / 0", "ZeroDivisionError"),
        ],
    )
    def test_what_is_no_result(self, metric, body, complaint):
        meter = CustomMeter(metric(f"def f(outputs, labels):\n    {body}"), lower_is_better=True)
        with pytest.raises(InputError, match=complaint):
            meter.update({"y": np.zeros(1)}, {}, np.zeros(1, np.int64))

    def test_it_may_write_into_what_it_gets(self, metric):
        meter = CustomMeter(
            metric("def f(outputs, labels):\n    outputs['y'][...] = 0\n    labels[...] = 9\n    return [1, 1]"),
            lower_is_better=False,
        )
        outputs, labels = {"y": np.ones((2, 3))}, np.arange(2)
        meter.update(outputs, {}, labels)
        assert outputs["y"].all()
        assert labels.tolist() == [0, 1]

    @pytest.mark.parametrize("count", [0, 3, 10**7])
    def test_more_or_fewer_scores_than_samples(self, metric, count):
        meter = CustomMeter(metric(f"def f(outputs, labels): return np.ones({count})"), lower_is_better=False)
        with pytest.raises(InputError, match=f"returned {count:,} scores for 4 samples"):
            meter.update({"y": np.zeros((4, 2))}, {}, np.zeros(4, np.int64))


class TestLoading:
    @pytest.mark.parametrize("parameters", ["", "a, b, c"])
    def test_functions_of_another_kind(self, metric, parameters):
        with pytest.raises(InputError, match=r"needs [03] arguments") as caught:
            metric(f"def f({parameters}): pass")
        assert "evaluate(run)" in caught.value.remedy

    def test_what_it_reads_is_seen_wherever_it_lies(self, tmp_path, metric):
        data = tmp_path / "elsewhere" / "labels.json"
        data.parent.mkdir()
        data.write_text("[1]")
        found = metric(
            f"import json, pathlib\ndef f(run): return {{'m': json.loads(pathlib.Path({str(data)!r}).read_text())[0]}}"
        )
        assert str(data) not in found.read().files
        assert found.evaluate(lambda feed: feed, 1) == ({"m": 1.0}, None)
        read = found.read()
        assert {tmp_path / "metrics.py", data} <= {Path(path) for path in read.files}
        before = digest_of_code(read)
        data.write_text("[2]")
        assert digest_of_code(read) != before
