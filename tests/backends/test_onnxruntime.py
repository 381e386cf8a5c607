from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import CASES, feed_for, model, normal, run, save

from trtpipe.backends.base import EngineRequest
from trtpipe.backends.onnxruntime import OnnxRuntime, opened_here
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.config.target import find_target
from trtpipe.config.toolchain import version
from trtpipe.errors import InputError, InternalError, StageError


@pytest.fixture
def infer(tmp_path, settings):
    def once(proto, feed):
        with OnnxRuntime().open(save(proto, tmp_path / "model.onnx"), settings) as runner:
            return runner.infer(feed)

    return once


@pytest.mark.parametrize("name", CASES)
def test_optimized_graphs_give_what_plain_ones_give(infer, name):
    proto = CASES[name]()
    feed = feed_for(proto)
    found, expected = infer(proto, feed), run(proto, feed)
    assert list(found) == list(expected)
    for output, values in expected.items():
        np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-5 * max(1, np.abs(values).max()))


def test_what_it_says_of_a_model(write_model, settings):
    path = write_model("(float[N,3] x, int64[2] i, bool c) => (float[N,3] y, double[2] z) "
                       "{ y = Relu(x) z = Cast<to=11>(i) }")  # fmt: skip
    with OnnxRuntime().open(path, settings) as runner:
        assert runner.device == f"onnxruntime {version('onnxruntime')} on CPU"
        assert [(spec.name, spec.dtype, spec.shape) for spec in runner.inputs] == [
            ("x", "float32", ("N", 3)),
            ("i", "int64", (2,)),
            ("c", "bool", ()),
        ]
        assert [(spec.name, spec.dtype) for spec in runner.outputs] == [("y", "float32"), ("z", "float64")]


def quantized(x: np.ndarray, w: np.ndarray, precision: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """x @ w with both fake-quantized by numpy, and the constants of a Q/DQ graph that says the same."""
    kind, largest = (np.int8, 127) if precision == "int8" else (ml_dtypes.float8_e4m3fn, 448)
    sx, sw = np.float32(np.abs(x).max() / largest), np.float32(np.abs(w).max() / largest)

    def rounded(values, scale):
        steps = np.clip(values / scale, -largest, largest)
        return (np.rint(steps) if kind == np.int8 else steps).astype(kind)

    product = (rounded(x, sx).astype(np.float32) * sx) @ (rounded(w, sw).astype(np.float32) * sw)
    return product, {"sx": sx, "z": np.zeros((), kind), "q": rounded(w, sw), "sw": sw}


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_pairs_are_computed_as_written_not_fused(infer, precision):
    x, w = normal(16, 64), normal(64, 32)
    expected, constants = quantized(x, w, precision)
    proto = model(
        "(float[16,64] x) => (float[16,32] y) { a = QuantizeLinear(x, sx, z) b = DequantizeLinear(a, sx, z) "
        "c = DequantizeLinear(q, sw, z) m = MatMul(b, c) y = Relu(m) }",
        **constants,
    )  # fmt: skip
    np.testing.assert_allclose(infer(proto, {"x": x})["y"], np.maximum(expected, 0), rtol=1e-4, atol=1e-4)


def test_no_pair_is_fused_into_an_integer_kernel(tmp_path, monkeypatch):
    """Integer kernels round where the explicit scheme does not, and saturate on some machines."""
    created = ort.InferenceSession

    def remembered(path, options, **more):
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        return created(path, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", remembered)
    x, w = normal(16, 64), normal(64, 32)
    _, constants = quantized(x, w, "int8")
    proto = model(
        "(float[16,64] x) => (float[16,32] y) { a = QuantizeLinear(x, sx, z) b = DequantizeLinear(a, sx, z) "
        "c = DequantizeLinear(q, sw, z) m = MatMul(b, c) r = QuantizeLinear(m, s, z) y = DequantizeLinear(r, s, z) }",
        s=np.float32(0.5), **constants,
    )  # fmt: skip
    with opened_here(save(proto, tmp_path / "model.onnx"), 0):
        pass
    operators = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "MatMul"} <= operators
    assert not {operator for operator in operators if "Integer" in operator or operator.startswith("QLinear")}


@pytest.mark.parametrize("inside", [False, True])
def test_chains_of_float8_convolutions_survive_optimization(infer, inside):
    """Fused as if they were int8, they would be off by whole magnitudes; in the body of an If as well."""
    w = {f"w{i}": normal(4, 4, 3, 3, seed=i, scale=0.2) for i in range(3)}
    zero, scale = np.zeros((), ml_dtypes.float8_e4m3fn), np.float32(0.01)
    layers, before = "", "x"
    for i in range(3):
        layers += (
            f"q{i} = QuantizeLinear({before}, s, z) d{i} = DequantizeLinear(q{i}, s, z) "
            f"v{i} = DequantizeLinear(k{i}, s, z) c{i} = Conv<pads=[1,1,1,1]>(d{i}, v{i}) r{i} = Relu(c{i}) "
        )
        before = f"r{i}"
    kernels = {f"k{i}": (w[f"w{i}"] / scale).astype(ml_dtypes.float8_e4m3fn) for i in range(3)}
    proto = model(
        f"(float[1,4,8,8] x) => (float[1,4,8,8] y) {{ {layers} y = Identity(r2) }}", s=scale, z=zero, **kernels
    )
    proto = in_a_branch(proto) if inside else proto
    feed = feed_for(proto)
    expected = run(proto, feed)["y"]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(infer(proto, feed)["y"], expected, atol=0.02 * np.abs(expected).max())


def in_a_branch(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, with its constants, as the branch that an If takes."""
    taken, graph = onnx.GraphProto(), proto.graph
    taken.CopyFrom(graph)
    taken.ClearField("input")
    other = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "other", [], graph.output)
    yes = onnx.helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])
    node = onnx.helper.make_node("If", ["yes"], ["y"], then_branch=taken, else_branch=other)
    whole = onnx.helper.make_graph([node], "whole", graph.input, graph.output, [yes])
    return onnx.helper.make_model(whole, opset_imports=proto.opset_import, ir_version=proto.ir_version)


def test_storage_that_overflows_is_not_optimized_away(infer):
    proto = model("(float[3] x) => (float[3] y) { m = Mul(x, x) h = Cast<to=10>(m) y = Cast<to=1>(h) }")
    found = infer(proto, {"x": np.array([1.0001, 300, -2], np.float32)})["y"]
    assert found.tolist() == [1, np.inf, 4]


@pytest.mark.parametrize(
    "feed",
    [
        {},
        {"x": np.zeros((2, 4), np.float32)},
        {"x": np.zeros((2, 3))},
        {"x": np.zeros((2, 3), np.float32), "z": np.zeros(1)},
    ],
)
def test_feeds_it_cannot_run(write_model, settings, feed):
    path = write_model("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    with (
        OnnxRuntime().open(path, settings) as runner,
        pytest.raises(InputError, match=r"model\.onnx: onnxruntime") as caught,
    ):
        runner.infer(feed)
    assert "\n" not in caught.value.message


def test_a_model_it_cannot_load(write_model, settings):
    path = write_model("(float[N,3] x) => (float[N,3] y) { y = Odd(x) }")
    with (
        pytest.raises(StageError, match=r"model\.onnx: onnxruntime cannot load the model: .*Odd"),
        OnnxRuntime().open(path, settings),
    ):
        pass


def test_it_builds_and_runs_no_engines(conv_net, tmp_path, settings, heard):
    backend, target = OnnxRuntime(), find_target("sm89")
    assert backend.refuses(conv_net, DeploymentProfile(), target) is not None
    assert backend.runs(target) is not None
    with pytest.raises(InternalError):
        backend.build(EngineRequest(conv_net, DeploymentProfile(), (target,), tmp_path / "e.plan", settings), heard)


def test_threads_change_no_result(conv_net, tmp_path):
    feed = {"x": normal(2, 3, 16, 16)}
    results = []
    for threads in (1, 2):
        with OnnxRuntime().open(conv_net, Settings(cache_dir=tmp_path, threads=threads)) as runner:
            results.append(runner.infer(feed)["y"])
    np.testing.assert_array_equal(*results)
