"""Joining feeds to batches, only where that changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from models import model, normal, save

from trtpipe.backends.base import load_backend
from trtpipe.config.settings import Settings
from trtpipe.reference.reference_outputs import run_all, run_every, stacked


@pytest.fixture
def opened(tmp_path):
    """Opens a model written in ONNX's text form."""

    def make(text, **weights):
        path = save(model(text, **weights), tmp_path / "m.onnx")
        return load_backend("onnxruntime").open(path, Settings(cache_dir=tmp_path))

    return make


ROWS = "(float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }"


def test_small_feeds_become_batches_of_sixteen(opened):
    feeds = [{"x": normal(1, 8, seed=seed), "other": np.zeros(3)} for seed in range(20)]
    with opened(ROWS, w=normal(8, 4)) as runner:
        found = stacked(runner, feeds)
        _, alone = run_all(runner, feeds, tolerant=False)
        _, together = run_all(runner, found, tolerant=False)
    assert [feed["x"].shape[0] for feed in found] == [16, 4]
    np.testing.assert_allclose(
        np.concatenate([each["y"] for each in together]), np.concatenate([each["y"] for each in alone]), rtol=1e-5
    )


def test_every_feed_is_answered_in_its_order_however_many_travel_together(opened):
    feeds = [{"x": normal(rows, 8, seed=rows), "unknown": np.zeros(3)} for rows in (5, *range(1, 40), 70000)]
    with opened("(float[N,8] x, float shift) => (float[N,8] y) { y = Add(x, shift) }") as runner:
        found = list(run_every(runner, feeds, {"shift": np.float32(2)}))
        assert list(run_every(runner, [], {})) == []
    assert len(found) == len(feeds)
    for feed, output in zip(feeds, found, strict=True):
        np.testing.assert_array_equal(output["y"], feed["x"] + np.float32(2))


def test_feeds_of_other_shapes_stay_apart(opened):
    text = "(float[N,L] x) => (float[N,1] y) { axes = Constant<value_ints=[1]>() y = ReduceSum(x, axes) }"
    feeds = [{"x": normal(2, 3 + index % 2, seed=index)} for index in range(6)]
    with opened(text) as runner:
        assert [feed["x"].shape for feed in stacked(runner, feeds)] == [(6, 3), (6, 4)]


@pytest.mark.parametrize(
    "text",
    [
        "(float[1,8] x) => (float[1,4] y) { y = MatMul(x, w) }",  # one sample only
        "(float[N,8] x) => (float[N,4] y) { m = MatMul(x, w) axes = Constant<value_ints=[0]>() "
        "c = ReduceMean(m, axes) y = Sub(m, c) }",  # samples see each other
        "(float[N,8] x) => (float[4,N] y) { m = MatMul(x, w) y = Transpose(m) }",  # the first axis is another
        "(float[N,8] x) => (float[N,4] y, float z) { y = MatMul(x, w) z = ReduceSum<keepdims=0>(y) }",
        "(float[N,8] x) => (float[1,4] y) { m = MatMul(x, w) a = Constant<value_ints=[0]>() y = ReduceMax(m, a) }",
    ],
)
def test_graphs_that_are_no_matter_of_rows_get_their_feeds_as_they_are(opened, text):
    feeds = [{"x": normal(1, 8, seed=seed)} for seed in range(4)]
    with opened(text, w=normal(8, 4)) as runner:
        assert stacked(runner, feeds) is feeds


def test_inputs_with_other_first_axes(opened):
    text = "(float[N,8] x, float[M,8] z) => (float[N,8] y) { y = Add(x, z) }"
    feeds = [{"x": normal(2, 8, seed=seed), "z": normal(1, 8, seed=seed)} for seed in range(4)]
    with opened(text) as runner:
        assert stacked(runner, feeds) is feeds


def test_large_feeds_stay_alone(opened):
    feeds = [{"x": np.zeros((1, 400_000), np.float32)} for _ in range(4)]
    with opened("(float[N,L] x) => (float[N,L] y) { y = Relu(x) }") as runner:
        assert stacked(runner, feeds) is feeds
