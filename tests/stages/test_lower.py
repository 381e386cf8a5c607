from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from fixtures_stages import consumed, needs, run_stage
from models import (
    conv_net,
    embedding,
    feed_for,
    large_constant,
    listed_initializers,
    model,
    normal,
    residual,
    run,
    save,
    weights_of,
)

from trtpipe.artifact import Draft
from trtpipe.calibration.ranges import Ranges, TensorRange
from trtpipe.errors import StageError
from trtpipe.preflight import onnx_io
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.lower import Lower

STAGE = Lower()


@pytest.fixture
def ranges(tmp_path):
    def write(**amax: float):
        found = {name: TensorRange(amax=a, method="max", minimum=-a, maximum=a) for name, a in amax.items()}
        Ranges(method="max", samples=8, tensors=found).write(tmp_path / "ranges.json")
        return tmp_path / "ranges.json"

    return write


@pytest.fixture
def go(make_job, table, workdir, heard_all):
    """(graph, record) of a model lowered to a precision."""

    def lower(proto, precision, *, keep=(), shapes=(), **things):
        inputs = table(simplified=proto, **things)
        draft = run_stage(STAGE, make_job(precision=precision, keep=keep, shapes=shapes), inputs, workdir, heard_all)
        STAGE.check(draft, inputs)
        assert sorted(path.name for path in workdir.iterdir()) == sorted(draft.names)
        graph = onnx.load(draft.path)
        onnx.checker.check_model(graph, full_check=True)
        return graph, LowerRecord.read(draft.sidecar)

    return lower


def kinds(graph: onnx.ModelProto) -> set[str]:
    return {str(weight.dtype) for weight in weights_of(graph).values()}


def test_fp32_only_copies(go, heard_all):
    graph, record = go(conv_net(), "fp32")
    feed = feed_for(conv_net())
    np.testing.assert_array_equal(run(graph, feed)["y"], run(conv_net(), feed)["y"])
    assert (record.precision, record.counts, record.nodes, record.notes) == ("fp32", {}, (), ())
    assert heard_all.warnings == []


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_16_bits(go, precision, dtype):
    proto = onnx.version_converter.convert_version(conv_net(), 22)
    graph, record = go(proto, precision)
    assert kinds(graph) == {dtype}
    assert record.counts == {dtype: 6}
    assert {decision.node for decision in record.nodes} == {node.name for node in proto.graph.node}


@pytest.mark.parametrize(("precision", "dtype"), [("int8", "int8"), ("fp8", "float8_e4m3fn")])
def test_8_bits(go, ranges, precision, dtype):
    graph, record = go(conv_net(), precision, ranges=ranges(x=3.0, f=2.0))
    quantized = [weight for name, weight in weights_of(graph).items() if name.endswith("_quantized")]
    assert [str(weight.dtype) for weight in quantized] == [dtype] * 2
    assert record.counts == {precision: 2, "float32": 4}
    assert record.work is not None and record.work.share == 1  # noqa: PT018
    steps = {name: float(weight) for name, weight in weights_of(graph).items() if name in ("x_scale", "f_scale")}
    largest = 127 if precision == "int8" else 448
    assert steps == {"x_scale": pytest.approx(3 / largest), "f_scale": pytest.approx(2 / largest)}


def test_the_record_tells_of_every_decision(go, ranges):
    _, record = go(residual(), "int8", ranges=ranges(r=2.0), keep=["conv_2"])
    assert record.counts == {"float32": 5, "int8": 1}
    assert {each.node for each in record.nodes} == {node.name for node in residual().graph.node}
    decided = {decision.node: (decision.precision, decision.reason) for decision in record.nodes}
    assert decided["conv_2"] == ("float32", "kept by pattern 'conv_2'")
    assert decided["conv_1"][0] == "int8"


def test_large_constants_are_never_clamped(go):
    graph, record = go(large_constant(2e5), "fp16")
    assert weights_of(graph)["large"] == np.float32(2e5)
    assert record.counts == {"float16": 2, "float32": 2}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_mask_of_the_lowest_float_becomes_one_that_16_bits_hold(go, precision):
    graph, _ = go(embedding(), precision)
    masks = [weight for name, weight in weights_of(graph).items() if name.startswith("lowest")]
    assert masks == [-6144]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_lowering_that_changed_nothing_says_so(go, ranges, precision):
    proto = model("(double[N,4] x) => (double[N,4] y) { y = Relu(x) }")
    _, record = go(proto, precision, **({"ranges": ranges()} if precision == "int8" else {}))
    assert f"no node could be lowered to {precision}" in record.warnings[0]


def test_a_precision_that_no_product_computes_in_is_an_error(go, ranges):
    vector = model("(float[N,4] x) => (float[N] y) { y = MatMul(x, w) }", opset=19, w=np.ones(4, np.float32))
    with pytest.raises(StageError, match=r"int8 was asked for.*matmul_0") as caught:
        go(vector, "int8", ranges=ranges(x=1.0))
    assert caught.value.exit_code == 5
    assert go(vector, "int8", ranges=ranges(x=1.0), keep=("*",))[1].counts == {"float32": 1}


def test_the_users_own_graph_need_not_be_simplified(go, ranges):
    proto = model("(float[N,2] x) => (float[N,2] y) { w = Constant<value=float[2,2] {1,2,3,4}>() y = MatMul(x, w) }")
    assert go(proto, "int8", ranges=ranges(x=1.0))[1].counts == {"int8": 1}
    assert go(proto, "fp16")[1].counts == {"float16": 1}
    listed = onnx.version_converter.convert_version(listed_initializers(), 19)
    graph, record = go(listed, "int8", ranges=ranges(x=1.0))
    assert record.counts == {"float32": 1, "int8": 1}
    assert [value.name for value in graph.graph.input] == ["x"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_bytes_are_the_same_every_time(go, ranges, workdir, precision):
    things = {"ranges": ranges(x=3.0, f=2.0)} if precision == "int8" else {}
    contents = []
    for _ in range(2):
        go(conv_net(), precision, **things)
        contents.append({path.name: path.read_bytes() for path in workdir.iterdir()})
    assert contents[0] == contents[1]


def test_large_graphs_keep_their_weights_beside_them(go, workdir, monkeypatch):
    monkeypatch.setattr(onnx_io, "INLINE_LIMIT", 1000)
    proto = model("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    graph, _ = go(proto, "bf16")
    assert (workdir / "lowered.onnx.data").stat().st_size >= 64 * 64 * 2
    np.testing.assert_array_equal(weights_of(graph)["w_bfloat16"], normal(64, 64).astype(ml_dtypes.bfloat16))


def test_a_changed_interface_is_caught(table, tmp_path):
    inputs = table(simplified=conv_net())
    save(model("(float[N,3,8,8] x) => (float16[N,5] y) { y = Cast<to=10>(x) }"), tmp_path / "lowered.onnx")
    with pytest.raises(StageError, match="lowering changed the interface: output 'y' was float32, now float16"):
        STAGE.check(Draft("lowered", tmp_path, ("lowered.onnx",)), inputs)


def test_what_its_key_holds(make_job):
    def key(**options):
        return STAGE.settings(make_job(**options))

    assert key() == key(targets=["sm120"]) == key(simplify=False) == key(recipe={"percentile": 99.0})
    assert key() != key(precision="fp16") != key(precision="fp16", keep=["a"])
    assert consumed(STAGE, make_job(precision="int8")) == ("simplified", "ranges")
    assert consumed(STAGE, make_job(precision="fp16")) == ("simplified", "statistics")
    assert consumed(STAGE, make_job(precision="best")) == ("simplified", "ranges", "statistics", "calibration-data")
    assert key(precision="best") != key(precision="best", int8_nodes=["conv_*"])
    assert key(precision="int8") == key(precision="int8", int8_nodes=["conv_*"])
    assert needs(STAGE, make_job())


def test_patterns_that_match_nothing_are_warned_about(go, ranges):
    _, record = go(residual(), "int8", ranges=ranges(r=2.0), keep=["conv_1", "covn_2"])
    [note] = [note for note in record.warnings if "--keep" in note]
    assert note.startswith("--keep 'covn_2' matches no node; similar names: ")
    assert "conv_2" in note


def test_much_left_high_is_warned_about(go, ranges):
    _, record = go(residual(), "int8", ranges=ranges(r=2.0), keep=["conv_1"])
    assert any("8-bit coverage: " in note and "kept by pattern" in note for note in record.warnings)
    assert not go(residual(), "int8", ranges=ranges(r=2.0))[1].warnings


def test_work_is_counted_at_the_opt_shapes(go, ranges):
    proto = model("(float[N,4] x) => (float[N,5] y) { y = MatMul(x, w) }", w=normal(4, 5))
    shapes = {"x": {"min": [1, 4], "opt": [7, 4], "max": [9, 4]}}
    assert go(proto, "int8", ranges=ranges(x=2.0), shapes=(shapes,))[1].work.total == 7 * 20
    assert go(proto, "int8", ranges=ranges(x=2.0))[1].work.total == 20
