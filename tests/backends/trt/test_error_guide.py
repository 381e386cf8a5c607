"""The error guide: every entry is met by TensorRT-RTX's real message."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.backends.base import missing
from trtpipe.backends.trt.error_guide import GUIDE
from trtpipe.backends.trt.errors import Log, build_error
from trtpipe.backends.trt.flavor import load
from trtpipe.backends.trt.request import BuildMessage
from trtpipe.config.profile import BuildSettings, ShapeRange
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError
from trtpipe.isolation.worker import Limits, call
from trtpipe.progress import NullProgress

rtx_only = pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")

SQUARE = np.eye(64, dtype=np.float32)


def nested(depth: int) -> str:
    """An If in an If, and so on: the nodes that make ``o0``."""
    inner = f"o{depth} = Neg(x)" if depth == 1 else nested(depth - 1).replace("o0", f"o{depth}")
    return (
        f"o0 = If(p) <then_branch = t{depth} () => (float[2] o{depth}) {{ {inner} }}, "
        f"else_branch = e{depth} () => (float[2] i{depth}) {{ i{depth} = Identity(x) }}>"
    )


#: entry -> graph, weights, target, options
PROVOKED = {
    "turing": ("(float[2,64] x) => (float[2,64] y) { y = MatMul(x, w) }", {"w": SQUARE}, "sm75", {}),
    "types": (
        "(float[2,64] x) => (float[2,64] y)"
        " { a = Cast<to=16>(x) b = Cast<to=16>(w) c = MatMul(a, b) y = Cast<to=1>(c) }",
        {"w": SQUARE}, "sm75", {},
    ),
    "quantized-constant": (
        "(float[2,64] x) => (float[2,64] y) { t = Transpose(w) d = DequantizeLinear(t, s) y = MatMul(x, d) }",
        {"w": np.ones((64, 64), np.int8), "s": np.float32(0.1)}, "sm89", {},
    ),
    "mixed-types": (
        "(float[2,64] x, float16[2,64] z) => (float[2,64] y) { y = Add(x, z) }", {}, "sm89", {},
    ),
    "workspace": (
        "(float[8,64,112,112] x) => (float[8,64,112,112] y) { a = Conv<pads=[1,1,1,1]>(x, w) b = Softmax<axis=1>(a)"
        " c = Conv<pads=[1,1,1,1]>(b, w) y = Add(c, b) }",
        {"w": np.ones((64, 64, 3, 3), np.float32)}, "sm89", {"workspace": 1 << 10},
    ),
    "shapes": ("(float[2,64] x, float[3,64] z) => (float[2,64] y) { y = Add(x, z) }", {}, "sm89", {}),
    "no-kernel": (
        "(float[1,100,4] b, float[1,1,100] s) => (int64[K,3] y) { y = NonMaxSuppression(b, s, m) }",
        {"m": np.array([10])}, "sm89", {},
    ),
    "form": (
        "(float[1,1,4,4] x) => (float[1,1,8,8] y)"
        ' { y = Resize<mode="linear", keep_aspect_ratio_policy="not_larger">(x, , , z) }',
        {"z": np.array([1, 1, 8, 8])}, "sm89", {},
    ),
    "zero-point": (
        "(float[2,64] x) => (float[2,64] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        {"s": np.float32(0.1), "z": np.int8(3)}, "sm89", {},
    ),
    "blocks": (
        "(float[1,16,8,8] x) => (float[1,16,6,6] y) { d = DequantizeLinear<axis=1,block_size=8>(w, s) y = Conv(x, d) }",
        {"w": np.ones((16, 16, 3, 3), np.int8), "s": np.ones((16, 2, 3, 3), np.float32)}, "sm89", {},
    ),
    "operator": ("(float[2,64] x) => (float[2,64] y) { y = Det(x) }", {}, "sm89", {}),
    "quantized-tensor": ("(float[2,64] x) => (float8e4m3fn[2,64] y) { y = Cast<to=17>(x) }", {}, "sm89", {}),
    "too-large": ("(float[1048576,1] x, float[1,4194304] z) => (float[?,?] y) { y = Add(x, z) }", {}, "sm89", {}),
    "constant-input": (
        "(float[2,64] x, int64[1] a) => (float[?] y) { y = ReduceSum<keepdims=0>(x, a) }", {}, "sm89", {},
    ),
    "nesting": (f"(float[2] x, bool p) => (float[2] o0) {{ {nested(28)} }}", {}, "sm89", {}),
    "graph-compiler": (
        "(float[1,6,16,16] x) => (float[1,?,?,?] y) { y = ConvTranspose<dilations=[2,2],strides=[3,3]>(x, w) }",
        {"w": np.ones((6, 2, 3, 3), np.float32)}, "sm89", {},
    ),
    "refit": ("(float[2,64] x) => (float[2,64] y) { y = MatMul(x, w) }", {"w": SQUARE}, "sm89", {"refit": True}),
    "lean-runtime": (
        "(float[2,64] x) => (float[2,64] y) { y = Relu(x) }", {}, "sm89", {"version_compatible": True},
    ),
    "branches": (
        "(float[2,1,4] x, bool p) => (float[?,?] y) { y = If(p) <then_branch = t () => (float[2,4] a)"
        " { k = Constant<value_ints=[1]>() a = Squeeze(x, k) },"
        " else_branch = e () => (float[2,1,4] b) { b = Identity(x) }> }",
        {}, "sm89", {},
    ),
    "connections": ("(float[2,64] x) => (float[2,64] y) { y = Add(x, nothing) }", {}, "sm89", {}),
}  # fmt: skip


def build(path, target, options):
    """In a process of its own: what the graph compiler says also depends on what it compiled before."""
    request = BuildMessage(
        model=str(path), plan=str(path.with_suffix(".plan")), flavor="tensorrt-rtx", targets=(target,),
        options=BuildSettings(**options),
    )  # fmt: skip
    call(
        "trtpipe.backends.trt.builder:build_task", request, EngineRecord, limits=Limits(60.0, 4 << 30),
        progress=NullProgress(), what="building", workdir=path.parent, reads=(path.parent,),
    )  # fmt: skip


def failure(*arguments) -> BuildError:
    with pytest.raises(BuildError) as caught:
        build(*arguments)
    return caught.value


@rtx_only
@pytest.mark.parametrize("name", PROVOKED)
def test_the_real_message_finds_its_entry(name, write_model):
    graph, weights, target, options = PROVOKED[name]
    error = failure(write_model(graph, opset=21, **weights), target, options)
    (advice,) = [advice for advice in GUIDE if advice.name == name]
    assert error.remedy == f"{advice.cause}: {advice.remedy}", error.message


@rtx_only
@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", b"\x08\x0a\x3a\xff"]
)
def test_files_that_are_no_model(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    assert failure(tmp_path / "m.onnx", "sm89", {}).remedy.startswith("the file is no ONNX model, or is truncated")


@rtx_only
def test_weights_that_are_missing(write_model, tmp_path):
    import onnx

    path = write_model("(float[2,64] x) => (float[2,64] y) { y = MatMul(x, w) }", w=SQUARE)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    error = failure(path, "sm89", {})
    assert "w.bin" in error.message
    assert "make the model self-contained" in error.remedy


@rtx_only
def test_a_build_that_is_cancelled(conv_net, monkeypatch):
    from trtpipe.backends.trt import builder

    trt = load("tensorrt-rtx")

    def stop(trt, config, targets):
        class Monitor(trt.IProgressMonitor):
            def __init__(self):
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, name, parent, steps): ...
            def phase_finish(self, name): ...
            def step_complete(self, name, step):
                return False

        config.progress_monitor = Monitor()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)

    shapes = ({"x": ShapeRange(min=(1, 3, 16, 16), opt=(2, 3, 16, 16), max=(4, 3, 16, 16))},)
    request = BuildMessage(model=str(conv_net), plan=str(conv_net) + ".plan", flavor="tensorrt-rtx",
                           targets=("sm89",), shapes=shapes)  # fmt: skip
    monkeypatch.setattr(builder, "name_targets", stop)
    with pytest.raises(BuildError, match="canceled by user") as caught:
        builder.build(trt, request, lambda *_: None)
    assert caught.value.remedy.endswith("run the same command again")


#: What trtpipe never asks a builder for, or catches before it: entry -> graph, and what the test sets or takes away.
MISUSED = {
    "profile": ("(float[N,64] x) => (float[N,64] y) { y = Relu(x) }", "check_profiles"),
    "attention": (
        "(float[1,2,8,16] q, float[1,2,8,16] k, float[1,2,8,16] v) => (float[1,2,8,16] y) { y = Attention(q, k, v) }",
        "_let_decompose",
    ),
    "dla": ("(float[2,64] x) => (float[2,64] y) { y = MatMul(x, x2) }", "DLA_STANDALONE"),
    "no-implementation": ("(float[2,64] x) => (float[2,64] y) { y = MatMul(x, x2) }", "SAFETY"),
    "capability": ("(float[2,64] x) => (float[2,64] y) { y = Relu(x) }", "NONE"),
}  # fmt: skip


@rtx_only
@pytest.mark.parametrize("name", MISUSED)
def test_the_real_message_of_a_misused_builder_finds_its_entry(name, write_model, monkeypatch):
    from trtpipe.backends.trt import builder

    trt, (graph, change) = load("tensorrt-rtx"), MISUSED[name]

    def configure(trt, config, targets):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, change, trt.ComputeCapability.SM89), 0)
        config.engine_capability = getattr(trt.EngineCapability, change, trt.EngineCapability.STANDARD)

    monkeypatch.setattr(builder, "name_targets", configure)
    if hasattr(builder, change):
        monkeypatch.setattr(builder, change, lambda *_: None)
    path = write_model(graph, opset=23, **({"x2": SQUARE} if "x2" in graph else {}))
    request = BuildMessage(model=str(path), plan=f"{path}.plan", flavor="tensorrt-rtx", targets=("sm89",))
    with pytest.raises(BuildError) as caught:
        builder.build(trt, request, lambda *_: None)
    (advice,) = [advice for advice in GUIDE if advice.name == name]
    assert caught.value.remedy == f"{advice.cause}: {advice.remedy}", caught.value.message


def test_every_entry_has_its_message():
    elsewhere = {"cancelled", "no-model", "external-data"}
    assert {advice.name for advice in GUIDE} == set(PROVOKED) | set(MISUSED) | elsewhere
    assert all(advice.cause and advice.remedy for advice in GUIDE)


class Speaker:
    """As much of ``trt`` as a log needs."""

    class ILogger:
        ERROR, WARNING = 1, 2


def test_an_unknown_message_is_passed_on_in_full():
    log = Log(Speaker)
    message = "the flux capacitor overflowed " + "again and " * 100 + "again"
    log.logger.log(1, message)
    log.logger.log(1, "and so did the second")
    log.logger.log(1, "and the third")
    error = build_error(log, "m.onnx", "sm89")
    assert message in error.message
    assert "and the third" in error.message


def test_a_log_without_errors():
    error = build_error(Log(Speaker), "m.onnx", "sm89")
    assert error.message == "m.onnx: cannot be built for sm89: no reason given"
