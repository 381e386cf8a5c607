from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from trtpipe.backends import base
from trtpipe.backends.base import EngineRequest
from trtpipe.backends.engine_file import read_header
from trtpipe.backends.gpu import has_driver
from trtpipe.backends.tensorrt_rtx import TensorRTRTX
from trtpipe.backends.trt import request
from trtpipe.config.profile import BuildSettings, DeploymentProfile, ShapeRange
from trtpipe.config.target import find_target
from trtpipe.errors import BuildError, HostError, InputError, WorkerError

pytestmark = pytest.mark.skipif(base.missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")

RTX = TensorRTRTX()
rng = np.random.default_rng(0)
CAST = "(float[B,64] x) => (float[B,64] y) { a = Cast<to=%d>(x) b = MatMul(a, w) r = Relu(b) y = Cast<to=1>(r) }"
QDQ = """(float[2,64] x) => (float[2,64] y) {
  q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, s, z) y = MatMul(d, v) }"""


def span(low, mid, high) -> ShapeRange:
    return ShapeRange(min=low, opt=mid, max=high)


BATCHES = span((1, 64), (4, 64), (8, 64))
IMAGES = span((1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16))


@pytest.fixture
def build(tmp_path, settings, heard):
    def run(model: Path, *shapes: dict[str, ShapeRange], target: str = "sm89", **options):
        profile = DeploymentProfile(shapes=shapes, build=BuildSettings(**options))
        return RTX.build(EngineRequest(model, profile, (find_target(target),), tmp_path / "e.plan", settings), heard)

    return run


def quantized(write_model, dtype) -> Path:
    weights = rng.integers(-5, 5, size=(64, 64)).astype(dtype)
    return write_model(QDQ, w=weights, s=np.float32(0.02), z=np.zeros((), dtype))


def test_a_conv_net_with_a_dynamic_batch(conv_net, build, tmp_path, heard):
    record = build(conv_net, {"x": IMAGES})
    header = read_header(tmp_path / "e.plan")
    assert header.targets == ("sm89",)
    assert header.size_ok
    assert (record.flavor, record.target, record.version) == ("tensorrt-rtx", "sm89", header.version)
    [x], [y] = record.io.inputs, record.io.outputs
    assert (x.name, x.dtype, x.shape) == ("x", "float32", ("N", 3, 16, 16))
    assert (y.name, y.dtype, y.shape) == ("y", "float32", (None, 8, 16, 16))
    assert record.weight_bytes == header.weight_bytes >= 8 * 3 * 3 * 3 * 4
    assert record.activation_bytes > 4 * 8 * 16 * 16 * 4  # the largest batch's output must fit
    assert record.layers == sum(record.precisions.values()) >= 1
    assert set(record.precisions) == {"Float"}
    assert record.build_seconds > 0
    assert ("parsing", 0, None) in heard.reports
    assert any(done == total for _, done, total in heard.reports)
    assert {entry.name for entry in tmp_path.iterdir()} == {"model.onnx", "e.plan"}


def test_a_build_imports_nothing_anew(product, build, monkeypatch):
    """A new interpreter costs more than a small engine does."""

    def call(*_: object, **__: object):
        raise AssertionError("a new interpreter was started")

    monkeypatch.setattr(request, "call", call)
    assert build(product).layers >= 1


@pytest.mark.parametrize("target", ["sm75", "sm86", "sm120"])
def test_a_cast_graph_computes_in_half_on_every_target(write_model, build, tmp_path, target):
    model = write_model(CAST % 10, w=rng.normal(size=(64, 64)).astype(np.float16))
    assert RTX.refuses(model, DeploymentProfile(), find_target(target)) is None
    record = build(model, {"x": BATCHES}, target=target)
    assert "Half" in record.precisions
    assert record.weight_bytes == 64 * 64 * 2
    assert read_header(tmp_path / "e.plan").targets == (target,)


@pytest.mark.parametrize(("dtype", "word"), [(np.int8, "Int8"), (ml_dtypes.float8_e4m3fn, "FP8")])
def test_quantized_products_compute_in_their_type(write_model, build, dtype, word):
    assert word in build(quantized(write_model, dtype)).precisions


def test_several_profiles(write_model, build):
    model = write_model(CAST % 10, w=rng.normal(size=(64, 64)).astype(np.float16))
    one = build(model, {"x": BATCHES})
    two = build(model, {"x": BATCHES}, {"x": span((9, 64), (16, 64), (32, 64))})
    assert two.layers == 2 * one.layers


def test_attention_in_float32_is_decomposed(write_model, build):
    shape = "1,4,16,32"
    model = write_model(
        f"(float[{shape}] q, float[{shape}] k, float[{shape}] v) => (float[{shape}] y) {{ y = Attention(q, k, v) }}",
        opset=23,
    )
    assert build(model).layers >= 1


def test_values_that_decide_shapes(write_model, build):
    model = write_model("(float[4,8] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }")
    with pytest.raises(InputError, match="the values of input 's' determine shapes"):
        build(model)
    same = span((4, 8), (4, 8), (4, 8))
    assert [spec.shape for spec in build(model, {"s": same}).io.outputs] == [(None, None)]


@pytest.mark.parametrize("name", ["sm87", "sm90", "sm100", "sm103", "sm110"])
def test_targets_it_does_not_know(conv_net, name):
    refusal = RTX.refuses(conv_net, DeploymentProfile(), find_target(name))
    assert refusal is not None
    assert name in refusal.reason
    assert "--backend tensorrt " in refusal.remedy


def test_a_build_for_an_unknown_target_fails_all_the_same(product, build):
    with pytest.raises(BuildError, match="builds no engines for sm90"):
        build(product, target="sm90")


@pytest.mark.parametrize(
    ("dtype", "target", "words"),
    [(ml_dtypes.float8_e4m3fn, "sm86", "fp8_e4m3"), (ml_dtypes.bfloat16, "sm75", "b16")],
)
def test_types_the_target_lacks_are_refused_before_and_by_the_build(write_model, build, dtype, target, words):
    if dtype is ml_dtypes.bfloat16:
        model = write_model(
            "(float[2,64] x) => (float[2,64] y) { a = Cast<to=16>(x) b = MatMul(a, w) y = Cast<to=1>(b) }",
            w=rng.normal(size=(64, 64)).astype(dtype),
        )
    else:
        model = quantized(write_model, dtype)
    refusal = RTX.refuses(model, DeploymentProfile(), find_target(target))
    assert refusal is not None
    assert dtype.__name__ in refusal.reason
    with pytest.raises(BuildError, match=f"model.onnx: cannot be built for {target}: .*{words}") as caught:
        build(model, target=target)
    assert "fp8 from sm89" in caught.value.remedy


def test_turing_multiplies_no_float32_matrices(product, build):
    refusal = RTX.refuses(product, DeploymentProfile(), find_target("sm75"))
    assert refusal is not None
    assert "'matmul_0'" in refusal.reason
    with pytest.raises(
        BuildError, match=r"cannot be built for sm75: .*'matmul_0'.* FP32 GEMM is not supported"
    ) as caught:
        build(product, target="sm75")
    assert "--fp16" in caught.value.remedy


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ("(float[2,4] x) => (float[2,4] y) { y = custom.MyOp(x) }", r"node 'myop_0' \(MyOp\): Plugin not found"),
        ("(float[2,4] x) => (int64[2,n] y) { y = NonZero(x) }", r"node 'nonzero_0' \(NonZero\): NonZero plugin"),
        (
            '(float[2,4,4] x, int32[2] i) => (float[2] y, int32[2] j) { y=Det(x) j=BitShift<direction="LEFT">(i, i) }',
            r"node 'det_0' \(Det\): this operator is not supported; node 'bitshift_1' \(BitShift\): this operator",
        ),
        (
            "(float[2,4] x, int64[2,4] i) => (float[2,4] y) "
            '{ a=Relu(x) b=ScatterElements<reduction="max">(a, i, a) y=Tanh(b) }',
            r"Unsupported reduction type; the failing node is 'scatterelements_1' \(ScatterElements\)",
        ),
        (
            "(float[2,64] x, float16[64,2] w) => (float[2,2] y) { y = MatMul(x, w) }",
            r"node 'matmul_0' .* same input types",
        ),
        ("(float[2,64] x, float[63,2] w) => (float[2,2] y) { y = MatMul(x, w) }", r"node 'matmul_0' .* must match"),
    ],
)
def test_what_the_parser_refuses_names_node_operator_and_reason(write_model, build, tmp_path, graph, words):
    with pytest.raises(BuildError, match=words) as caught:
        build(write_model(graph))
    assert caught.value.message.startswith("model.onnx: TensorRT cannot parse it: ")
    assert caught.value.remedy
    assert "cudaError" not in caught.value.message
    assert {entry.name for entry in tmp_path.iterdir()} == {"model.onnx"}


def test_several_profiles_are_all_built_in(conv_net, build, tmp_path):
    large = span((8, 3, 16, 16), (16, 3, 16, 16), (32, 3, 16, 16))
    one = build(conv_net, {"x": IMAGES})
    size = (tmp_path / "e.plan").stat().st_size
    both = build(conv_net, {"x": IMAGES}, {"x": large})
    assert one.profiles == ({"x": IMAGES},)
    assert both.profiles == ({"x": IMAGES}, {"x": large})
    assert (tmp_path / "e.plan").stat().st_size > size + 10_000, "each profile has kernels of its own"
    assert both.activation_bytes > one.activation_bytes, "the largest profile's tensors must fit"


def test_a_static_engine_has_no_profiles(product, build):
    assert build(product, {"x": span((2, 64), (2, 64), (2, 64))}).profiles == ()


def test_shapes_for_an_input_that_is_none(conv_net, build):
    with pytest.raises(InputError, match="'xx': no such input") as caught:
        build(conv_net, {"xx": IMAGES})
    assert "did you mean 'x'" in caught.value.remedy


def test_a_dynamic_input_without_shapes(conv_net, build):
    with pytest.raises(InputError, match=r"model\.onnx: input x: float32\[Nx3x16x16\] is dynamic"):
        build(conv_net)


def test_too_little_workspace(write_model, build):
    model = write_model(CAST % 10, w=rng.normal(size=(64, 64)).astype(np.float16))
    with pytest.raises(BuildError, match="workspace") as caught:
        build(model, {"x": BATCHES}, workspace=1)
    assert "--workspace" in caught.value.remedy


def test_an_empty_file(tmp_path, build):
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(BuildError, match=r"empty\.onnx: holds no graph"):
        build(tmp_path / "empty.onnx")


def test_a_model_that_crashes_the_parser_costs_one_error(tmp_path, build):
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    call = helper.make_node("F", ["a"], ["b"], domain="own")
    itself = helper.make_function("own", "F", ["a"], ["b"], [call], opsets)
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "ab"]
    graph = helper.make_graph([call], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, functions=[itself], opset_imports=opsets, ir_version=10)
    onnx.save(model, tmp_path / "loop.onnx")
    with pytest.raises(WorkerError, match=r"crashed \(SIGSEGV\) while building sm89 from loop\.onnx"):
        build(tmp_path / "loop.onnx")


def test_limits_are_in_force(product, build):
    with pytest.raises(WorkerError, match="time limit"):
        build(product, time_limit=0.05)
    with pytest.raises(WorkerError, match="memory limit of 1\\.0 MB"):
        build(product, memory_limit=1_000_000)


def test_an_earlier_plan_survives_a_failed_build(product, build, tmp_path):
    build(product)
    before = (tmp_path / "e.plan").read_bytes()
    with pytest.raises(WorkerError):
        build(product, time_limit=0.05)
    assert (tmp_path / "e.plan").read_bytes() == before


@pytest.mark.skipif(has_driver(), reason="this machine has a CUDA driver")
def test_opening_needs_a_driver(product, build, tmp_path, settings):
    build(product)
    with pytest.raises(HostError, match="no CUDA driver"), RTX.open(tmp_path / "e.plan", settings):
        pass


def test_a_range_of_values_is_passed_on(write_model, build):
    """A Reshape whose target is an input: the builder wants the range of its values."""
    model = write_model("(float[B,6] x, int64[2] to) => (float[R,C] y) { r = Relu(x) y = Reshape(r, to) }")
    sizes, values = span((1, 6), (2, 6), (4, 6)), span((2, 3), (4, 3), (8, 3))
    record = build(model, {"x": sizes, "to": values})
    assert record.profiles == ({"x": sizes, "to": values},)
    with pytest.raises(InputError, match="the values of input 'to' determine shapes, and no range is given"):
        build(model, {"x": sizes})
    with pytest.raises(InputError, match="are 3 values, the input holds 2"):
        build(model, {"x": sizes, "to": span((2, 3, 1), (4, 3, 1), (8, 3, 1))})


@pytest.mark.parametrize("name", ["?", "None", "-1"])
def test_a_name_that_means_any_size_ties_nothing(tmp_path, build, name):
    ends = [helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, [name, name]) for end in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    record = build(tmp_path / "m.onnx", {"x": span((1, 8), (2, 8), (4, 16))})
    assert record.profiles[0]["x"].opt == (2, 8)
    assert not [warning for warning in record.warnings if "equal" in warning]
