"""From a float32 graph and data to 16 bits: the small graphs on which converters are known to fail, computed with
16-bit storage emulated, built by TensorRT-RTX, and judged by onnxruntime's float32 result.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures_stages import needs, run_stage
from models import FLOAT_MAX, model, normal, run, weights_of

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.autocast.half_precision import tensor_ranges_in
from trtpipe.backends import base
from trtpipe.config.formats import Precision
from trtpipe.config.profile import ShapeRange
from trtpipe.config.recipe import DataSettings
from trtpipe.config.target import find_target
from trtpipe.data.dataset import open_dataset
from trtpipe.data.sample import RowContents, Sample
from trtpipe.reference.runnable import runnable_graph
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.calibrate import Calibrate
from trtpipe.stages.compile import Compile
from trtpipe.stages.lower import Lower
from trtpipe.stages.observe import EXTREMES_ON, Observe

ROWS = 8
INTEGERS = np.array([[1, 7, 2049, 3001]] * ROWS)
#: name -> the graph, its constants, and what it is fed
MICRO: dict[str, tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]] = {
    "cast_from_integers": (
        "(int64[N,4] i, float[N,4] x) => (float[N,4] y) { f = Cast<to=1>(i) g = Mul(f, half) h = Sub(g, f) "
        "y = Add(h, x) }",
        {"half": np.float32(0.5)},
        {"i": INTEGERS, "x": normal(ROWS, 4)},
    ),
    "constant": ("(float[N,4] x) => (float[N,4] y) { a = Mul(x, c) y = Add(a, a) }", {"c": np.float32(2e4)},
                 {"x": normal(ROWS, 4) / 4}),
    "shape_arithmetic": (
        "(float[N,3001] x) => (float[N,M] y) { a = Relu(x) s = Shape<start=1>(a) f = Cast<to=1>(s) g = Mul(f, one) "
        "k = Cast<to=7>(g) n = Concat<axis=0>(minus, k) y = Reshape(a, n) }",
        {"one": np.float32(1), "minus": np.array([-1])},
        {"x": normal(ROWS, 3001)},
    ),
    "resize_scales": (
        '(float[N,2,5,5] x) => (float[N,2,10,10] y) { r = Relu(x) y = Resize<mode="linear">(r, , scales) }',
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        {"x": normal(ROWS, 2, 5, 5)},
    ),
    "epsilon": (
        "(float[N,4] x) => (float[N,4] y) { q = Mul(x, x) s = ReduceSum(q, axis) l = Sqrt(s) d = Add(l, eps) "
        "y = Div(x, d) }",
        {"axis": np.array([1]), "eps": np.float32(1e-12)},
        {"x": np.concatenate([normal(ROWS - 1, 4), np.zeros((1, 4), np.float32)])},
    ),
    "lowest_float_mask": (
        "(float[N,6,6] x, int64[N,1,6] m) => (float[N,6,6] y) { f = Cast<to=1>(m) i = Sub(one, f) b = Mul(i, low) "
        "a = Add(x, b) c = Add(a, b) p = Softmax(c) y = MatMul(p, x) }",
        {"one": np.float32(1), "low": np.float32(-FLOAT_MAX)},
        {"x": normal(ROWS, 6, 6), "m": np.array([[[1, 1, 1, 0, 0, 0]]] * ROWS)},
    ),
    "power": (
        "(float[N,4] x) => (float[N,4] y) { p = Pow(x, two) q = Mul(p, small) y = Add(q, x) }",
        {"two": np.float32(2), "small": np.float32(1e-3)},
        {"x": normal(ROWS, 4) * 400},
    ),
    "sum": (
        "(float[N,512] x) => (float[N,1] y) { s = ReduceSum(x, axis) y = Mul(s, small) }",
        {"axis": np.array([1]), "small": np.float32(1e-3)},
        {"x": np.abs(normal(ROWS, 512)) * 400},
    ),
    "layer_norm_in_pieces": (
        "(float[N,64] x) => (float[N,64] y) { m = ReduceMean(x, axis) c = Sub(x, m) q = Pow(c, two) "
        "v = ReduceMean(q, axis) w = Add(v, eps) r = Sqrt(w) y = Div(c, r) }",
        {"axis": np.array([1]), "two": np.float32(2), "eps": np.float32(1e-12)},
        {"x": normal(ROWS, 64) * 300},
    ),
}  # fmt: skip
#: relative to the largest output: some roundings of each type
CLOSE = {"fp16": 2e-3, "bf16": 2e-2}


@pytest.fixture
def lower(make_job, table, workdir, heard_all, tmp_path):
    """(path of the lowered graph, its record) of a graph, with data or without."""

    def go(proto: onnx.ModelProto, precision: str, feed=None, **options) -> tuple[Path, LowerRecord]:
        source = ""
        if feed is not None:
            source = str(tmp_path / "data.npz")
            np.savez(source, **feed)
        job = make_job(precision=precision, recipe={"data": {"source": source}}, **options)
        inputs = table(simplified=proto, data=source)
        assert needs(Observe(), job) is bool(source)
        if source:
            (workdir / "observe").mkdir()
            draft = run_stage(Observe(), job, inputs, workdir / "observe", heard_all)
            Observe().check(draft, inputs)
            inputs.artifacts["statistics"] = draft.finish()
        draft = run_stage(Lower(), job, inputs, workdir, heard_all)
        Lower().check(draft, inputs)
        onnx.checker.check_model(onnx.load(draft.path), full_check=True)
        return draft.path, LowerRecord.read(draft.sidecar)

    return go


def micro(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    graph, constants, feed = MICRO[name]
    return onnx.version_converter.convert_version(model(graph, **constants), 22), feed


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("name", MICRO)
def test_is_right_with_16_bit_storage(lower, tmp_path, name, measured, precision):
    proto, feed = micro(name)
    lowered, record = lower(proto, precision, feed if measured else None)
    assert record.samples == (ROWS if measured else 0)
    expected = run(proto, feed)["y"]
    found = run(onnx.load(runnable_graph(lowered, Precision(precision).half, tmp_path)[0]), feed)["y"]
    assert np.isfinite(expected).all()
    assert np.abs(found - expected).max() <= CLOSE[precision] * np.abs(expected).max()


@pytest.mark.skipif(base.missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")
@pytest.mark.parametrize("name", MICRO)
def test_tensorrt_builds_it(lower, make_job, table, workdir, heard_all, name):
    proto, feed = micro(name)
    lowered, _ = lower(proto, "fp16", feed)
    shapes = {
        key: ShapeRange(min=(1, *value.shape[1:]), opt=value.shape, max=value.shape) for key, value in feed.items()
    }
    job = make_job(precision="fp16", shapes=shapes, backend="tensorrt-rtx").for_target(find_target("sm89"))
    engines = workdir / "engines"
    engines.mkdir()
    draft = run_stage(Compile(), job, table(lowered=lowered), engines, heard_all)
    assert draft.path.stat().st_size


class TestMeasured:
    def test_small_means_and_powers_need_no_float32(self, lower):
        """What stays adds an epsilon that float16 does not hold, and takes the root of that."""
        proto, feed = micro("layer_norm_in_pieces")
        assert lower(proto, "fp16", {"x": feed["x"] / 300})[1].counts == {"float16": 5, "float32": 2}

    def test_without_data_they_stay(self, lower):
        proto, _ = micro("layer_norm_in_pieces")
        assert lower(proto, "fp16")[1].counts["float32"] >= 5


@pytest.mark.parametrize(("turned", "batch"), [(False, 1), (True, 1), (False, 8)])
def test_neither_order_nor_batches_change_the_extremes(make_job, table, workdir, heard_all, tmp_path, turned, batch):
    x = np.arange(64, dtype=np.float32)[:, None] ** 2
    np.save(tmp_path / "data.npy", x[::-1] if turned else x)
    data = {"source": str(tmp_path / "data.npy"), "batch": batch}
    job = make_job(precision="fp16", recipe={"data": data})
    inputs = table(simplified=model("(float[N,1] x) => (float[N,1] y) { y = Add(x, x) }"), data=data["source"])
    content = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=("N", 1)),), outputs=())
    inputs.datasets["calibration-data"] = open_dataset(DataSettings(**data), content)
    found = tensor_ranges_in(run_stage(Observe(), job, inputs, workdir, heard_all).finish())
    chosen = sorted(x, key=lambda row: RowContents.of(Sample({"x": row[None]})).rows)[:EXTREMES_ON]
    assert found.samples == EXTREMES_ON
    assert (found.tensors["y"].minimum, found.tensors["y"].maximum) == (2 * min(chosen), 2 * max(chosen))


class TestBest:
    """INT8 with FP16 around it."""

    GRAPH = "(float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) r = Relu(a) b = MatMul(r, v) y = Sigmoid(b) }"

    @pytest.fixture
    def best(self, make_job, table, workdir, heard_all, tmp_path):
        def go(feed, w, **options) -> tuple[onnx.ModelProto, LowerRecord, Path]:
            np.savez(tmp_path / "data.npz", **feed)
            job = make_job(precision="best", recipe={"data": {"source": str(tmp_path / "data.npz")}}, **options)
            proto = model(self.GRAPH, w=w, v=normal(8, 8, seed=1))
            inputs = table(simplified=proto, data=str(tmp_path / "data.npz"))
            for stage in (Observe(), Calibrate(), Lower()):
                (workdir / stage.name).mkdir()
                draft = run_stage(stage, job, inputs, workdir / stage.name, heard_all)
                stage.check(draft, inputs)
                inputs.artifacts[draft.kind] = draft.finish()
            return onnx.load(draft.path), LowerRecord.read(draft.sidecar), draft.path

        return go

    def test_products_in_int8_between_float16(self, best, tmp_path):
        x = normal(64, 8)
        graph, record, path = best({"x": x}, normal(8, 8))
        assert record.counts == {"float16": 2, "int8": 2}
        assert record.samples == EXTREMES_ON
        operators = [node.op_type for node in graph.graph.node]
        assert operators.count("QuantizeLinear") == 2
        assert operators.count("DequantizeLinear") == 4
        assert operators.count("Cast") == 2  # at the ends, none between a DequantizeLinear and its reader
        expected = run(model(self.GRAPH, w=normal(8, 8), v=normal(8, 8, seed=1)), {"x": x})["y"]
        for proto in (graph, onnx.load(runnable_graph(path, Precision.best.half, tmp_path)[0])):
            np.testing.assert_allclose(run(proto, {"x": x})["y"], expected, atol=0.1)

    def test_scales_are_float16_numbers_and_weights_were_divided_by_them(self, best):
        w = normal(8, 8) * np.linspace(0.1, 30, 8, dtype=np.float32)
        graph, _, _ = best({"x": normal(64, 8)}, w)
        weights = weights_of(graph)
        [scale] = [value for name, value in weights.items() if name.startswith("w_") and value.dtype == np.float16]
        [quantized] = [value for name, value in weights.items() if name.startswith("w_") and value.shape == (8, 8)]
        np.testing.assert_array_equal(scale, (np.abs(w).max(axis=0) / np.float32(127)).astype(np.float16))
        np.testing.assert_array_equal(quantized, np.clip(np.rint(w / scale.astype(np.float32)), -127, 127))

    def test_no_scale_is_subnormal(self, best):
        w = normal(8, 8)
        w[:, 3] *= 1e-6
        graph, record, _ = best({"x": normal(64, 8)}, w)
        scales = [value for name, value in weights_of(graph).items() if value.dtype == np.float16 and "scale" in name]
        assert min(float(scale.min()) for scale in scales) == 2.0**-14
        assert record.counts["int8"] == 2

    def test_an_activation_too_small_for_such_a_scale_stays_in_16_bits(self, best):
        _, record, _ = best({"x": normal(64, 8) * 1e-4}, normal(8, 8) * 1e4)
        [first] = [node for node in record.nodes if node.node == "matmul_0"]
        assert first.precision == "float16"
        assert "its scale would lose digits in float16" in first.reason

    def test_the_profile_says_which_nodes_may_be_int8(self, best):
        _, record, _ = best({"x": normal(64, 8)}, normal(8, 8), int8_nodes=["matmul_2"])
        assert {node.node: node.precision for node in record.nodes} == {
            "matmul_0": "float16", "relu_1": "float16", "matmul_2": "int8", "sigmoid_3": "float16"
        }  # fmt: skip

    def test_kept_nodes_stay_in_float32_with_their_quantizers_away(self, best):
        graph, record, _ = best({"x": normal(64, 8)}, normal(8, 8), keep=["matmul_2"])
        assert {node.node: node.precision for node in record.nodes}["matmul_2"] == "float32"
        assert [node.op_type for node in graph.graph.node].count("QuantizeLinear") == 1
