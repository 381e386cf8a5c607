"""Tiny ONNX models, one for each difficulty that lowering has to master, and the plainest way to run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.parser import parse_model

from trtpipe.calibration.statistics_arrays import StatisticsReducer
from trtpipe.isolation.imports import no_telemetry
from trtpipe.isolation.reducer import LocalReduction

no_telemetry()

import onnxruntime as ort  # noqa: E402  it starts its telemetry when it is imported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Feed: TypeAlias = dict[str, np.ndarray]

FLOAT_MAX = float(np.finfo(np.float32).max)


def model(graph: str, *, opset: int = 20, ir_version: int = 10, **weights: np.ndarray) -> onnx.ModelProto:
    """A graph in ONNX's text syntax, nodes named ``<op>_<index>``, with ``weights`` as initializers."""
    parsed = parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {graph}')
    parsed.graph.initializer.extend(numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    for index, node in enumerate(parsed.graph.node):
        node.name = f"{node.op_type.lower()}_{index}"
    return parsed


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Seeded normal values, float32."""
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    """Write ``proto`` and return ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return path


def statistics_reduction(run: Callable[[Feed], Feed], names: Sequence[str]) -> LocalReduction:
    """A function in the place of a model, whose outputs are counted as those of a model would be."""
    return LocalReduction(run, StatisticsReducer(names))


def run(proto: onnx.ModelProto, feed: Feed, outputs: Sequence[str] | None = None) -> Feed:
    """Outputs by name, computed by onnxruntime as the graph is written: no optimization, no fusion."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()] if outputs is None else list(outputs)
    return dict(zip(names, session.run(names, feed), strict=True))


def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that returns the inner tensors ``names`` instead, all float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return copy


def weights_of(proto: onnx.ModelProto) -> Feed:
    """All initializers of the main graph as arrays."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def conv_net(batch: str = "N") -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Gemm over a dynamic batch: x[N,3,8,8] -> y[N,5]."""
    return model(
        f"(float[{batch},3,8,8] x) => (float[{batch},5] y) {{"
        "c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, gamma, beta, mean, var) r = Relu(n) "
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, v, bias) }",
        w=normal(4, 3, 3, 3), gamma=np.abs(normal(4, seed=1)) + 0.5, beta=normal(4, seed=2), mean=normal(4, seed=3),
        var=np.abs(normal(4, seed=4)) + 0.5, v=normal(5, 4), bias=normal(5),
    )  # fmt: skip


def residual() -> onnx.ModelProto:
    """Two convolutions read r, and so does the Add that closes the skip connection."""
    return model(
        "(float[N,4,6,6] x) => (float[N,4,6,6] y) { r = Relu(x) a = Conv<pads=[1,1,1,1]>(r, w) b = Conv(r, v) "
        "s = Add(a, b) t = Add(s, r) y = Relu(t) }",
        w=normal(4, 4, 3, 3, scale=0.3), v=normal(4, 4, 1, 1, scale=0.3),
    )  # fmt: skip


def depthwise() -> onnx.ModelProto:
    """A convolution with one filter a channel."""
    return model(
        "(float[1,6,5,5] x) => (float[1,6,3,3] y) { y = Conv<group=6>(x, w) }", w=normal(6, 1, 3, 3)
    )  # fmt: skip


def transposed() -> onnx.ModelProto:
    """ConvTranspose, whose weight has its output channels second."""
    return model(
        "(float[1,3,4,4] x) => (float[1,5,8,8] y) { y = ConvTranspose<strides=[2,2]>(x, w) }", w=normal(3, 5, 2, 2)
    )


def both_sides() -> onnx.ModelProto:
    """MatMul with its weight on the right, then on the left."""
    return model(
        "(float[2,6,4] x) => (float[2,3,5] y) { a = MatMul(x, w) y = MatMul(v, a) }", w=normal(4, 5), v=normal(3, 6)
    )


def shared_weight() -> onnx.ModelProto:
    """One weight whose output channels are its rows for one consumer and its columns for the other."""
    return model(
        "(float[N,4] x) => (float[N,4] y, float[N,4] z) { y = MatMul(x, w) z = Gemm<transB=1>(x, w) }",
        w=normal(4, 4) * np.geomspace(0.01, 10, 4, dtype=np.float32),
    )


def branches() -> onnx.ModelProto:
    """An If whose bodies compute with a value and a weight of the outer graph."""
    return model(
        "(float[2,4] x, bool c) => (float[2,4] y) { r = Relu(x) "
        "q = If(c) <then_branch = t () => (float[2,4] a) { h = MatMul(r, w) a = Relu(h) }, "
        "else_branch = e () => (float[2,4] b) { k = Sigmoid(r) b = Add(k, bias) }> y = Mul(q, two) }",
        w=normal(4, 4), bias=normal(4), two=np.float32(2),
    )  # fmt: skip


def looped() -> onnx.ModelProto:
    """A Loop that multiplies its state by a weight three times."""
    return model(
        "(float[1,4] x) => (float[1,4] y) { y = Loop(trips, go, x) <body = step "
        "(int64 i, bool keep, float[1,4] state) => (bool on, float[1,4] next) "
        "{ on = Identity(keep) h = MatMul(state, w) next = Tanh(h) }> }",
        w=normal(4, 4), trips=np.int64(3), go=np.bool_(True),
    )  # fmt: skip


def embedding() -> onnx.ModelProto:
    """Token ids and a mask, both int64: embedding, attention scores, a mask of -FLT_MAX, softmax, projection."""
    return model(
        "(int64[N,S] ids, int64[N,S] mask) => (float[N,S,4] y) {"
        "e = Gather(table, ids) k = Transpose<perm=[0,2,1]>(e) s = MatMul(e, k) m = Cast<to=1>(mask) i = Sub(one, m) "
        "b = Mul(i, lowest) u = Unsqueeze(b, axis) t = Add(s, u) p = Softmax<axis=-1>(t) a = MatMul(p, e) "
        "y = MatMul(a, w) }",
        table=normal(20, 4), one=np.float32(1), lowest=np.float32(-FLOAT_MAX), axis=np.array([1]), w=normal(4, 4),
    )  # fmt: skip


def twins() -> onnx.ModelProto:
    """Two outputs that are one value."""
    return model(
        "(float[N,4] x) => (float[N,4] y, float[N,4] z) { r = MatMul(x, w) y = Identity(r) z = Identity(r) }",
        w=normal(4, 4),
    )


def listed_initializers() -> onnx.ModelProto:
    """Opset 8 and IR version 3, where every initializer is an input too."""
    return model(
        "(float[1,3,6,6] x, float[4,3,3,3] w) => (float[1,4,4,4] y) { c = Conv(x, w) y = Relu(c) }",
        opset=8, ir_version=3, w=normal(4, 3, 3, 3),
    )  # fmt: skip


def faint_channels() -> onnx.ModelProto:
    """A weight with a channel of zeros, one of subnormal numbers, one tiny and one ordinary."""
    return model(
        "(float[1,3,4,4] x) => (float[1,4,2,2] y) { y = Conv(x, w) }",
        w=normal(4, 3, 3, 3) * np.array([0, 1e-42, 1e-37, 1], np.float32).reshape(4, 1, 1, 1),
    )


def large_constant(value: float = 2e5) -> onnx.ModelProto:
    """Scaled up beyond float16 and down again."""
    return model(
        "(float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Mul(a, large) c = Div(b, large) y = Relu(c) }",
        w=normal(4, 4), large=np.float32(value),
    )  # fmt: skip


def normalized(eps: float = 1e-12) -> onnx.ModelProto:
    """Rows divided by their length plus an epsilon that float16 cannot hold."""
    return model(
        "(float[N,4] x) => (float[N,4] y) { q = Mul(x, x) s = ReduceSum(q, axis) l = Sqrt(s) d = Add(l, eps) "
        "n = Div(x, d) y = MatMul(n, w) }",
        axis=np.array([1]), eps=np.float32(eps), w=normal(4, 4),
    )  # fmt: skip


def shape_arithmetic(length: int = 3001) -> onnx.ModelProto:
    """A length that takes a detour through float32 before it decides a shape; float16 holds integers to 2048 only."""
    return model(
        f"(float[N,{length}] x) => (float[M] y) {{ a = Relu(x) s = Shape(a) f = Cast<to=1>(s) g = Mul(f, one) "
        "i = Cast<to=7>(g) n = ReduceProd<keepdims=1>(i) y = Reshape(a, n) }",
        one=np.float32(1),
    )


def resized() -> onnx.ModelProto:
    """Resize, whose scales must stay float32."""
    return model(
        "(float[1,2,5,5] x) => (float[1,2,10,10] y) { r = Relu(x) y = Resize<mode=\"linear\">(r, , scales) }",
        scales=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip


#: All of them, by name.
CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    case.__name__: case
    for case in (
        conv_net, residual, depthwise, transposed, both_sides, shared_weight, branches, looped, embedding, twins,
        listed_initializers, faint_channels, large_constant, normalized, shape_arithmetic, resized,
    )
}  # fmt: skip


def feed_for(proto: onnx.ModelProto, seed: int = 0, dim: int = 3) -> Feed:
    """One seeded feed: normal floats, integers 0 to 3 (masks 0 or 1, never all 0), open dimensions ``dim`` long."""
    generator = np.random.default_rng(seed)
    constant = {tensor.name for tensor in proto.graph.initializer}
    feed: Feed = {}
    for value in proto.graph.input:
        if value.name in constant:
            continue
        shape = [axis.dim_value or dim for axis in value.type.tensor_type.shape.dim]
        kind = value.type.tensor_type.elem_type
        if kind == onnx.TensorProto.FLOAT:
            feed[value.name] = generator.standard_normal(shape).astype(np.float32)
        elif kind == onnx.TensorProto.BOOL:
            feed[value.name] = np.asarray(seed % 2 == 0)
        else:
            feed[value.name] = generator.integers(0, 2 if value.name == "mask" else 4, shape)
            feed[value.name][..., 0] = 1
    return feed


def spectrogram() -> onnx.ModelProto:
    """The logarithm of a spectrum, then wide layers: quiet frequencies drown in what 8 bits round off loud ones."""
    angles = 2 * np.pi * np.outer(np.arange(128), np.arange(64)) / 128
    return model(
        "(float[N,128] x) => (float[N,10] y) { c = MatMul(x, basis) p = Mul(c, c) e = Add(p, eps) l = Log(e) "
        "a = MatMul(l, w0) r = Relu(a) b = MatMul(r, w1) s = Relu(b) t = MatMul(s, w2) u = Relu(t) y = MatMul(u, w3) }",
        basis=np.concatenate([np.cos(angles[:, :32]), np.sin(angles[:, :32])], axis=1).astype(np.float32),
        eps=np.float32(1e-5),
        w0=normal(64, 512, scale=0.1),
        w1=normal(512, 512, seed=1, scale=0.05),
        w2=normal(512, 512, seed=2, scale=0.05),
        w3=normal(512, 10, seed=3, scale=0.05),
    )


def sounds(seed: int, count: int = 64) -> Feed:
    """A loud tone of any pitch over quiet noise."""
    random = np.random.default_rng(seed)
    time = np.arange(128) / 128
    tones = np.sin(2 * np.pi * random.integers(2, 30, (count, 1)) * time + random.uniform(0, 6, (count, 1)))
    return {"x": (tones + 0.001 * random.standard_normal((count, 128))).astype(np.float32)}
