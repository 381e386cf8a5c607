"""Numbers taken inside the graph, against numpy on the tensors themselves."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import branches, conv_net, looped, model, normal, run, with_outputs

from trtpipe.autocast.range_probes import add_probes
from trtpipe.autocast.tensor_ranges import TensorRangeBuilder
from trtpipe.passes.expose import expose
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes


def measured(proto: onnx.ModelProto, *feeds: dict[str, np.ndarray]):
    loaded = ir.serde.deserialize_model(proto)
    run_passes(loaded, [InferTypes()])
    probes = add_probes(loaded)
    expose(loaded, tuple(probes))
    probed = ir.serde.serialize_model(loaded)
    builder = TensorRangeBuilder(probes)
    for feed in feeds:
        builder.add(run(probed, feed))
    return builder.finish(len(feeds))


def test_extremes_over_all_feeds():
    feeds = [{"x": normal(2, 3, 8, 8, seed=seed)} for seed in range(3)]
    found = measured(conv_net(), *feeds)
    assert found.samples == 3
    for name in ("c", "n", "r", "p"):
        values = np.concatenate([run(with_outputs(conv_net(), [name]), feed)[name].ravel() for feed in feeds])
        assert found.tensors[name].minimum == pytest.approx(values.min(), rel=1e-5)
        assert found.tensors[name].maximum == pytest.approx(values.max(), rel=1e-5)
    x = np.concatenate([feed["x"] for feed in feeds])
    assert (found.tensors["x"].minimum, found.tensors["x"].maximum) == (x.min(), x.max())
    assert found.tensors["x"].largest == np.abs(x).max()


def test_a_tensor_that_shows_another_one_has_no_numbers_of_its_own():
    assert "f" not in measured(conv_net(), {"x": normal(2, 3, 8, 8)}).tensors  # f flattens p


@pytest.mark.parametrize("opset", [13, 17, 18, 22])
@pytest.mark.parametrize(("op", "factor"), [("ReduceSum", 1), ("ReduceMean", 6)])
def test_terms_that_cancel(op, factor, opset):
    listed = op == "ReduceSum" or opset >= 18
    axes = "" if listed else "<axes=[1]>"
    constants = {"axes": np.array([1])} if listed else {}
    proto = model(
        f"(float[N,6] x) => (float[N,1] y) {{ y = {op}{axes}(x{', axes' if listed else ''}) }}",
        opset=opset,
        **constants,
    )
    x = np.array([[1, -1, 2, -2, 3, -3], [5, 0, 0, 0, 0, 0]], np.float32)
    found = measured(proto, {"x": x}).tensors["y"]
    assert found.terms == pytest.approx(12)
    assert found.maximum == pytest.approx(5 / factor)


def test_the_smallest_magnitude_that_is_not_zero():
    proto = model("(float[N] x, float[N] z) => (float[N] y) { a = Abs(x) y = Div(z, a) }")
    found = measured(proto, {"x": np.array([0, -1e-9, 3], np.float32), "z": np.ones(3, np.float32)})
    assert found.tensors["a"].smallest == pytest.approx(1e-9)
    assert found.tensors["x"].smallest is None
    assert "y" not in found.tensors  # one element became infinite


def test_nothing_but_zeros():
    proto = model("(float[N] x) => (float[N] y) { a = Abs(x) y = Sqrt(a) }")
    found = measured(proto, {"x": np.zeros(3, np.float32)}).tensors["a"]
    assert (found.minimum, found.maximum, found.smallest) == (0, 0, None)


def test_empty_tensors_say_nothing():
    proto = model("(float[N] x) => (float[N] y) { a = Neg(x) y = Sqrt(a) }")
    full, empty = {"x": np.array([-4], np.float32)}, {"x": np.zeros(0, np.float32)}
    assert measured(proto, empty).tensors == {}
    assert measured(proto, empty, full, empty).tensors["a"].maximum == 4


def test_a_branch_that_was_not_taken_has_none():
    x = normal(2, 4)
    taken = measured(branches(), {"x": x, "c": np.array(True)})
    both = measured(branches(), {"x": x, "c": np.array(True)}, {"x": x, "c": np.array(False)})
    assert taken.tensors.keys() < both.tensors.keys()


def test_loops_are_measured_in_every_iteration():
    x, w = normal(1, 4), normal(4, 4)
    found = measured(looped(), {"x": x}).tensors["h"]
    state, products = x, []
    for _ in range(3):
        products.append(state @ w)
        state = np.tanh(products[-1])
    assert found.maximum == pytest.approx(np.max(products), rel=1e-5)
    assert found.minimum == pytest.approx(np.min(products), rel=1e-5)
