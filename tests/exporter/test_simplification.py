from __future__ import annotations

import numpy as np
import onnx
import onnxsim
import pytest
from models import CASES, conv_net, feed_for, listed_initializers, model, normal, run, save

from trtpipe.backends.base import load_backend
from trtpipe.errors import StageError
from trtpipe.exporter import simplification
from trtpipe.exporter.request import SimplifyRequest
from trtpipe.exporter.simplification import simplify
from trtpipe.report.stage_records import SimplifyRecord


@pytest.fixture
def simplified(tmp_path, workdir):
    """(result, record) of a model."""

    def run_task(proto, *, onnxsim=True, opset=19, **options):
        request = SimplifyRequest(
            model=str(save(proto, tmp_path / "model.onnx")), workdir=str(workdir), onnxsim=onnxsim, opset=opset,
            **({"feeds": "", "shapes": {}} | options),
        )  # fmt: skip
        reports = []
        reply = simplify(request, lambda *report: reports.append(report))
        assert reports[-1] == ("simplify", 3, 3)
        return onnx.load(workdir / reply.names[0]), SimplifyRecord.read(workdir / "simplified.onnx.json")

    return run_task


@pytest.mark.parametrize("with_onnxsim", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same_at_an_opset_that_lowering_can_use(simplified, name, with_onnxsim):
    proto = CASES[name]()
    result, record = simplified(proto, onnxsim=with_onnxsim)
    onnx.checker.check_model(result, full_check=True)
    assert record.opset == result.opset_import[0].version >= 19
    assert record.simplified is with_onnxsim
    assert record.notes == ()
    for seed in range(2):
        feed = feed_for(proto, seed)
        found, expected = run(result, feed), run(proto, feed)
        assert list(found) == list(expected)
        for output, values in expected.items():
            np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-5 * max(1, np.abs(values).max()))


def test_what_it_is_for(simplified):
    result, record = simplified(conv_net())
    assert "BatchNormalization" not in {node.op_type for node in result.graph.node}
    assert (record.nodes_before, record.nodes_after) == (6, len(result.graph.node))
    assert record.nodes_after == 5
    [difference] = record.parity
    assert difference.output == "y"
    assert 0 <= difference.mean_abs <= difference.max_abs < 1e-4


@pytest.mark.parametrize("with_onnxsim", [True, False])
def test_what_the_converter_writes_as_constants_is_read_by_the_passes(simplified, with_onnxsim):
    proto = model(
        "(float[N,4,6] x) => (float[N,4,6] y) { m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Pow(d, two) "
        "v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta) }",
        opset=13, two=np.float32(2), eps=np.float32(1e-5), gamma=normal(6, seed=1), beta=normal(6, seed=2),
    )  # fmt: skip
    result, _ = simplified(proto, onnxsim=with_onnxsim)
    assert [node.op_type for node in result.graph.node] == ["LayerNormalization"]


def test_bytes_are_the_same_every_time(simplified, workdir):
    contents = []
    for _ in range(2):
        simplified(CASES["embedding"]())
        contents.append([(workdir / name).read_bytes() for name in ("simplified.onnx", "simplified.onnx.json")])
    assert contents[0] == contents[1]


def test_bfloat16_asks_for_a_later_opset(simplified):
    assert simplified(conv_net(), opset=22)[1].opset == 22


def test_inputs_that_are_initializers_are_gone(simplified):
    result, _ = simplified(listed_initializers(), onnxsim=False)
    assert [value.name for value in result.graph.input] == ["x"]


def test_an_operator_that_tensorrt_lacks_is_expanded_before_onnxsim_runs(simplified):
    proto = model("(float[3,5] x, int64[3] t) => (float y) { y = NegativeLogLikelihoodLoss(x, t) }")
    result, record = simplified(proto)
    assert "NegativeLogLikelihoodLoss" not in {node.op_type for node in result.graph.node}
    assert record.simplified
    feed = {"x": normal(3, 5), "t": np.array([0, 4, 2])}
    np.testing.assert_allclose(run(result, feed)["y"], run(proto, feed)["y"], rtol=1e-6)


def test_without_rewriting_the_graph_stays_at_its_opset(simplified):
    proto = model("(float[2,3] x) => (float[2,3] y) { y = Celu(x) }", opset=13)
    result, record = simplified(proto, onnxsim=False, rewrite=False)
    assert record.opset == 13
    assert [node.op_type for node in result.graph.node] == ["Celu"]


def test_scalar_integers_are_compared_too(simplified):
    proto = model("(float[4] x) => (uint8[4] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }")
    assert [difference.max_abs for difference in simplified(proto)[1].parity] == [0, 0, 0]


def test_a_model_without_inputs_is_compared_too(simplified, tmp_path):
    proto = model("() => (float[2] y) { y = Relu(w) }", w=normal(2))
    np.savez(tmp_path / "feeds.npz")
    for feeds in ("", str(tmp_path / "feeds.npz")):
        assert [difference.output for difference in simplified(proto, feeds=feeds)[1].parity] == ["y"]


def test_what_a_plug_in_reads_may_be_folded(simplified):
    proto = model(
        "(float[1,4] x) => (float[1,4] y) { a = Neg(x) k = Exp(c) n = Shape(x) y = Odd(a, k, n) }", c=normal(4)
    )
    proto.graph.node[-1].domain = "vision"
    proto.opset_import.append(onnx.helper.make_opsetid("vision", 1))
    assert [difference.output for difference in simplified(proto)[1].parity] == ["y/input_0", "y/input_1", "y/input_2"]


class TestOnnxsimFails:
    """The caller tries again without it."""

    def test_by_raising(self, simplified, monkeypatch):
        def explode(proto, **_):
            raise RuntimeError("an assertion\nand its details")

        monkeypatch.setattr(onnxsim, "simplify", explode)
        with pytest.raises(StageError, match=r"(?m)^onnxsim failed: an assertion$"):
            simplified(conv_net())

    def test_by_changing_the_result(self, simplified, monkeypatch):
        def spoil(path, **_):
            proto = onnx.load(path)
            proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(normal(4, 3, 3, 3, seed=9), "w"))
            return proto, True

        monkeypatch.setattr(onnxsim, "simplify", spoil)
        with pytest.raises(StageError, match="simplification changed output 'y' by up to"):
            simplified(conv_net())

    def test_by_changing_it_only_a_little(self, simplified, monkeypatch):
        def nudge(factor):
            def scale(path, **_):
                proto = onnx.load(path)
                bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "bias")
                values = onnx.numpy_helper.to_array(bias) + factor
                bias.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), "bias"))
                return proto, True

            return scale

        monkeypatch.setattr(onnxsim, "simplify", nudge(1e-5))
        _, record = simplified(conv_net())
        assert record.parity[0].max_abs == pytest.approx(1e-5, rel=0.2)
        monkeypatch.setattr(onnxsim, "simplify", nudge(0.1))
        with pytest.raises(StageError, match=r"by up to 0\.1"):
            simplified(conv_net())

    def test_by_changing_a_shape(self, simplified, monkeypatch):
        squeezed = model(
            "(float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) y = ReduceSum<keepdims=1>(a, axis) }",
            w=normal(4, 4), axis=np.array([1]),
        )  # fmt: skip
        monkeypatch.setattr(onnxsim, "simplify", lambda proto, **_: (squeezed, True))
        with pytest.raises(StageError, match="changed the shape of output 'y'"):
            simplified(model("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4)))

    def test_by_producing_nan(self, simplified, monkeypatch):
        bad = model("(float[N,4] x) => (float[N,4] y) { z = Sub(x, x) y = Div(z, z) }")
        monkeypatch.setattr(onnxsim, "simplify", lambda proto, **_: (bad, True))
        with pytest.raises(StageError, match="changed output 'y'"):
            simplified(model("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))

    def test_by_bringing_in_operators_of_another_runtime(self, simplified, monkeypatch):
        def foreign(path, **_):
            proto = onnx.load(path)
            proto.graph.node[0].op_type, proto.graph.node[0].domain = "FastGelu", "com.microsoft"
            proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
            return proto, True

        monkeypatch.setattr(onnxsim, "simplify", foreign)
        with pytest.raises(StageError, match=r"operators of the domain 'com\.microsoft', which TensorRT does not have"):
            simplified(model("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))

    def test_by_renaming_the_interface(self, simplified, monkeypatch):
        other = model("(float[N,4] z) => (float[N,4] y) { y = Relu(z) }")
        monkeypatch.setattr(onnxsim, "simplify", lambda proto, **_: (other, True))
        with pytest.raises(StageError, match=r"simplification broke the graph: .*x"):
            simplified(model("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))


def test_the_products_of_an_attention_stay_products(simplified):
    """onnxsim would fuse this one into an operator that only onnxruntime has."""
    heads = "Reshape(q{0}, split) t{0} = Transpose<perm=[0,2,1,3]>(r{0})"
    three = " ".join(f"p{i} = MatMul(x, w{i}) q{i} = Add(p{i}, b{i}) r{i} = {heads.format(i)}" for i in "qkv")
    proto = model(
        f"(float[2,8,16] x) => (float[2,8,16] y) {{ {three} k = Transpose<perm=[0,1,3,2]>(tk) s = MatMul(tq, k) "
        "d = Div(s, root) a = Softmax<axis=-1>(d) c = MatMul(a, tv) e = Transpose<perm=[0,2,1,3]>(c) "
        "f = Reshape(e, join) g = MatMul(f, wo) y = Add(g, bo) }",
        **{f"w{i}": normal(16, 16, seed=n) for n, i in enumerate("qkvo")},
        **{f"b{i}": normal(16, seed=n + 9) for n, i in enumerate("qkvo")},
        split=np.array([0, 0, 4, 4]), join=np.array([0, 0, 16]), root=np.float32(2),
    )  # fmt: skip
    result, record = simplified(proto)
    assert record.simplified
    assert {node.domain for node in result.graph.node} == {""}
    assert {"MatMul", "Softmax"} <= {node.op_type for node in result.graph.node}


@pytest.mark.parametrize("with_onnxsim", [True, False])
def test_branches_that_fixed_sizes_resolve_are_inlined(simplified, with_onnxsim):
    proto = model(
        "(float[N,M,4] x) => (float[N,4] z) { h = Relu(x) s = Shape(h) n = Gather(s, one) c = Equal(n, one) "
        "y = If(c) <then_branch = t () => (float[N,4] a) { k = Constant<value_ints=[1]>() a = Squeeze(h, k) }, "
        "else_branch = e () => (float[N,4] b) { b = ReduceMax<keepdims=0>(h, axis) }> z = Abs(y) }",
        one=np.array(1), axis=np.array([1]),
    )  # fmt: skip
    varied, record = simplified(proto, onnxsim=with_onnxsim, shapes={"x": (2, 1, 4)})
    assert "If" in {node.op_type for node in varied.graph.node}
    assert record.notes == ()
    fixed, record = simplified(proto, onnxsim=with_onnxsim, shapes={"x": (2, 1, 4)}, fixed={"x": (None, 1, 4)})
    assert [node.op_type for node in fixed.graph.node] == ["Relu", "Squeeze", "Abs"]
    assert "was replaced by its branch" in record.notes[0]
    assert fixed.graph.input == varied.graph.input


class TestComparison:
    def test_integers_may_differ_in_one_of_a_hundred(self, simplified, monkeypatch):
        def shifted(count):
            offsets = np.zeros(200, np.int64)
            offsets[:count] = 1
            return model("(float[200] x) => (int64[200] y) { i = Cast<to=7>(x) y = Add(i, o) }", o=offsets)

        monkeypatch.setattr(onnxsim, "simplify", lambda proto, **_: (shifted(2), True))
        assert simplified(shifted(0))[1].parity[0].max_abs == 1
        monkeypatch.setattr(onnxsim, "simplify", lambda proto, **_: (shifted(3), True))
        with pytest.raises(StageError, match="changed output 'y'"):
            simplified(shifted(0))

    def test_equal_infinities_and_nans_are_equal(self, simplified):
        _, record = simplified(model(
            "(float[N,2] x) => (float[N,2] y, float[N,2] z) { o = Sub(x, x) y = Log(o) z = Div(o, o) }"
        ))  # fmt: skip
        assert [difference.max_abs for difference in record.parity] == [0, 0]

    def test_given_feeds_are_the_ones_compared_on(self, simplified, tmp_path, monkeypatch):
        """The two graphs differ for large inputs only, which random feeds between 0 and 1 never reach."""
        clipped = model("(float[N,2] x) => (float[N,2] y) { y = Clip(x, , high) }", high=np.float32(5))
        monkeypatch.setattr(onnxsim, "simplify", lambda proto, **_: (clipped, True))
        plain = model("(float[N,2] x) => (float[N,2] y) { y = Identity(x) }")
        simplified(plain)
        np.savez(tmp_path / "feeds.npz", **{"0_0": np.full((1, 2), 100, np.float32)})
        with pytest.raises(StageError, match="by up to 95"):
            simplified(plain, feeds=str(tmp_path / "feeds.npz"))

    def test_shapes_of_random_feeds(self, simplified):
        proto = model("(float[N,M] x) => (float[N,M] y) { s = Reshape(x, a) t = Reshape(s, b) y = Relu(t) }",
                      a=np.array([2, 6]), b=np.array([3, 4]))  # fmt: skip
        _, record = simplified(proto, shapes={"x": (3, 4)})
        assert record.parity[0].max_abs == 0
        _, record = simplified(proto, onnxsim=False)
        assert record.parity == ()
        assert "the result was not compared with its input" in record.notes[0]
        with pytest.raises(StageError, match="could not be checked"):
            simplified(proto)


def test_a_model_that_cannot_be_raised_goes_on_as_it_is(simplified):
    old = model("(float[2,3] x) => (float[2,3] y) { y = BatchNormalization<spatial=0>(x, s, s, m, s) }", opset=7,
                s=np.ones((3,), np.float32), m=np.zeros((3,), np.float32))  # fmt: skip
    result, record = simplified(old, onnxsim=False)
    assert record.opset == result.opset_import[0].version == 7
    assert "opset 7 cannot be raised to 19" in record.notes[0]


def test_weights_beyond_protobufs_limit_are_not_given_to_onnxsim(simplified, monkeypatch):
    monkeypatch.setattr(simplification, "_PROTOBUF_LIMIT", 100)
    monkeypatch.setattr(onnxsim, "simplify", lambda proto, **_: pytest.fail("was called"))
    _, record = simplified(conv_net())
    assert record.simplified is False
    assert record.notes == ("onnxsim was not tried: the weights exceed protobuf's 2 GB",)


def test_warnings_of_an_earlier_attempt_are_kept(simplified):
    assert simplified(conv_net(), onnxsim=False, warnings=("was given up",))[1].warnings == ("was given up",)


def test_the_result_runs_in_the_reference_room_too(simplified, workdir, make_job):
    simplified(conv_net())
    feed = feed_for(conv_net())
    with load_backend("onnxruntime").open(workdir / "simplified.onnx", make_job().settings) as runner:
        np.testing.assert_allclose(runner.infer(feed)["y"], run(conv_net(), feed)["y"], rtol=1e-4, atol=1e-4)
