from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import (
    both_sides,
    branches,
    conv_net,
    depthwise,
    embedding,
    feed_for,
    listed_initializers,
    looped,
    model,
    normal,
    residual,
    save,
    shared_weight,
    transposed,
)
from planning import planned, prepared, settings

import trtpipe
from trtpipe.calibration.corrections import Corrections, Smoothing, packed
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.formats import FP16, FP32, INT8
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.quantization.apply_corrections import apply_corrections
from trtpipe.quantization.plan import ATTENTION_KEPT, ATTENTION_RULE, QuantizationPlan, plan
from trtpipe.quantization.qdq import scale_loss


def summary(proto: onnx.ModelProto, keep: tuple[str, ...] = ()) -> list[tuple[object, ...]]:
    """(operator, activation tensors, weight tensor, axis) of every point."""
    return [
        (point.op, point.tensors, None if point.weight is None else point.kernel, point.axis)
        for point in planned(proto, keep).points
    ]


def reasons(proto: onnx.ModelProto, keep: tuple[str, ...] = ()) -> dict[str, str]:
    """Output of a node that is kept in higher precision -> why."""
    loaded = prepared(proto)
    kept = plan(loaded, settings(keep=keep)).kept
    return {str(n.outputs[0].name): kept[str(n.name)] for n in loaded.graph.all_nodes() if n.name in kept}


@pytest.mark.parametrize(
    ("proto", "points"),
    [
        (conv_net(), [("Conv", ("x",), "w", 0)]),
        (residual(), [("Conv", ("r",), "w", 0), ("Conv", ("r",), "v", 0)]),
        (depthwise(), [("Conv", ("x",), "w", 0)]),
        (transposed(), [("ConvTranspose", ("x",), "w", 1)]),
        (both_sides(), [("MatMul", ("x",), "w", 1), ("MatMul", ("a",), "v", 0)]),
        (shared_weight(), [("MatMul", ("x",), "w", 1), ("Gemm", ("x",), "w", 0)]),
        (listed_initializers(), [("Conv", ("x",), "w", 0)]),
        (branches(), [("MatMul", ("r",), "w", 1)]),
        (looped(), [("MatMul", ("state",), "w", 1)]),
    ],
    ids=["conv_net", "residual", "depthwise", "transposed", "both_sides", "shared_weight", "listed_initializers",
         "branches", "looped"],
)  # fmt: skip
def test_points_of_the_weighted_operators(proto, points):
    assert summary(proto) == points


@pytest.mark.parametrize(
    ("shape", "left", "axis"), [((4, 5), False, 1), ((2, 4, 5), False, 2), ((3, 6), True, 0), ((2, 3, 6), True, 1)]
)
def test_axis_of_matmul_weights_of_any_rank(shape, left, axis):
    product = "MatMul(w, x)" if left else "MatMul(x, w)"
    proto = model(f"(float[2,6,4] x) => (float[a,b,c] y) {{ y = {product} }}", w=normal(*shape))
    assert summary(proto) == [("MatMul", ("x",), "w", axis)]


def test_gemm_without_transposition_has_its_channels_second():
    proto = model("(float[N,4] x) => (float[N,5] y) { y = Gemm(x, w) }", w=normal(4, 5))
    assert summary(proto) == [("Gemm", ("x",), "w", 1)]


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", w=normal(4)), "vector"),
        (model("(float[4] x) => (float[4,4] y) { y = MatMul(w, v) }", w=normal(4, 4), v=normal(4, 4)), "both inputs"),
        (model("(float16[N,4] x) => (float16[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4).astype(np.float16)),
         "computes in float16 already"),
        (model("(double[N,4] x) => (double[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4).astype(float)), "double"),
        (model("(float[4,4] x) => (float[4,4] y) { y = Gemm<transA=1>(w, x) }", w=normal(4, 4)), "is computed"),
        (model("(float[1,2,5,5] x, float[3,2,3,3] k) => (float[1,3,3,3] y) { y = Conv(x, k) }"), "is computed"),
        (model("(float[N,1] x) => (float[N,8] y) { y = MatMul(x, w) }", w=normal(1, 8)), "outer product"),
        (model("(float[2,3] x) => (float[2] y) { s = Shape(x) f = Cast<to=1>(s) y = MatMul(f, w) }", w=normal(2, 2)),
         "shapes or positions"),
    ],
)  # fmt: skip
def test_nodes_that_stay_say_why(proto, reason):
    assert summary(proto) == []
    [found] = reasons(proto).values()
    assert reason in found


def test_the_user_keeps_nodes_by_shell_patterns():
    assert [point.node for point in planned(residual(), ("conv_2", "unknown*")).points] == ["conv_1"]
    assert reasons(residual(), ("conv_2",))["b"] == "kept by pattern 'conv_2'"
    assert summary(residual(), ("conv_*",)) == []
    assert len(summary(residual(), ("CONV_*",))) == 2  # case matters, as in ONNX


def test_operators_of_other_domains_are_none_of_ours():
    proto = model("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4))
    proto.graph.node[0].domain = "somewhere"
    proto.opset_import.append(onnx.helper.make_opsetid("somewhere", 1))
    found = planned(proto)
    assert (found.points, found.kept) == ((), {})


def test_tensors_come_once_and_in_graph_order():
    assert planned(residual()).tensors == ("r",)
    assert planned(both_sides()).tensors == ("x", "a")


class TestResidualAdds:
    """Only the skip input, and only where the sum is read in 8 bits."""

    WEIGHTS = {
        "w": normal(16, 16, 3, 3),
        "v": normal(16, 16, 3, 3),
        "u": normal(16, 16, 1, 1),
        "z": normal(16, 16, 1, 1),
    }

    def block(self, body: str) -> list[tuple[object, ...]]:
        proto = model(f"(float[1,16,8,8] x) => (float[1,16,8,8] y) {{ {body} }}")
        for name, array in self.WEIGHTS.items():
            if f"{name})" in body:
                proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return [(op, tensors) for op, tensors, *_ in summary(proto) if op == "Add"]

    def test_an_identity_skip_shares_the_pair_of_the_block(self):
        body = "a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, v) {} t = Relu(s) y = Conv(t, u)"
        assert self.block(body.format("s = Add(b, x)")) == [("Add", ("x",))]
        assert self.block(body.format("s = Add(x, b)")) == [("Add", ("x",))]

    def test_of_two_ways_the_shorter_is_the_skip(self):
        body = (
            "a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, v) d = Conv(x, z) {} y = Conv(s, u)"
        )
        assert self.block(body.format("s = Add(b, d)")) == [("Add", ("d",))]
        assert self.block(body.format("s = Add(d, b)")) == [("Add", ("d",))]

    def test_a_sum_that_nobody_reads_in_8_bits_stays(self):
        body = "a = Conv<pads=[1,1,1,1]>(x, w) s = Add(a, x) y = Sigmoid(s)"
        assert self.block(body) == []

    def test_a_convolution_that_others_read_too_cannot_take_in_the_sum(self):
        body = "a = Conv<pads=[1,1,1,1]>(x, w) q = Sigmoid(a) s = Add(a, x) t = Add(s, q) y = Conv(t, u)"
        assert self.block(body) == []

    def test_the_reason(self):
        proto = model("(float[N,16] x) => (float[N,16] y) { a = MatMul(x, w) y = Add(a, x) }", w=normal(16, 16))
        assert "no quantized consumer" in reasons(proto)["y"]


class TestPools:
    INCEPTION = (
        "(float[1,16,8,8] x) => (float[1,16,8,8] y, float[1,16,8,8] z) {"
        "p = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x) y = Conv(p, w) {} }"
    )

    def test_between_tensors_in_8_bits(self):
        proto = model(self.INCEPTION.replace("{}", "z = Conv(x, w)"), w=normal(16, 16, 1, 1))
        assert ("AveragePool", ("x",), None, 0) in summary(proto)

    def test_not_where_its_input_is_in_high_precision(self):
        proto = model(self.INCEPTION.replace("{}", "z = Relu(x)"), w=normal(16, 16, 1, 1))
        assert summary(proto) == [("Conv", ("p",), "w", 0)]
        assert "not quantized for another reader" in reasons(proto)["p"]


class TestOneScale:
    def test_across_a_concatenation_and_what_else_moves_values(self):
        proto = model(
            "(float[1,16,8,8] x) => (float[1,16,8,8] y, float[1,16,4,4] z, float[1,16,8,8] q) {"
            "a = Conv(x, w) r = Relu(a) c = Concat<axis=1>(r, x) y = Conv(c, v) "
            "m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r) z = Conv(m, w) q = Conv(r, w) }",
            w=normal(16, 16, 1, 1), v=normal(16, 32, 1, 1),
        )  # fmt: skip
        [group] = planned(proto).groups
        assert sorted(group) == ["c", "m", "r", "x"]

    def test_not_across_what_computes(self):
        proto = model("(float[N,16] x) => (float[N,16] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }",
                      w=normal(16, 16))  # fmt: skip
        assert planned(proto).groups == ()

    def test_not_between_parts_of_a_value_that_is_not_in_8_bits(self):
        proto = model(
            "(float[N,16] x) => (float[N,8] y, float[N,8] z) { r = Relu(x) a, b = Split<num_outputs=2,axis=1>(r) "
            "y = MatMul(a, w) z = MatMul(b, w) }",
            w=normal(8, 8),
        )  # fmt: skip
        assert planned(proto).groups == ()


class TestUnprofitable:
    """Skipped, cheapest first, while 95 % of the work is quantized."""

    def net(self, width: int, image: int = 32, depth: int = 64) -> onnx.ModelProto:
        return model(
            f"(float[1,16,{image},{image}] x) => (float[1,{width}] y) {{ a = Conv(x, w) r = Relu(a) "
            "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, v) }",
            w=normal(depth, 16, 3, 3), v=normal(width, depth),
        )  # fmt: skip

    def test_a_narrow_head(self):
        assert [op for op, *_ in summary(self.net(10))] == ["Conv"]
        assert reasons(self.net(10))["y"] == "quantization not profitable: 10 output channels, fewer than 16"

    def test_a_vector(self):
        assert reasons(self.net(20))["y"] == "quantization not profitable: a matrix times a single vector"

    def test_a_shallow_sum(self):
        proto = model(
            "(float[N,32,16,16] x) => (float[N,8,16,16] z, float[N,32,16,16] y) { a = Conv<pads=[3,3,3,3]>(x, w) "
            "z = Conv(a, d) y = Conv(z, u) }",
            w=normal(32, 32, 7, 7), d=normal(8, 32, 1, 1), u=normal(32, 8, 1, 1),
        )  # fmt: skip
        assert "sums 8 products" in reasons(proto)["y"]

    def test_small_models_do_not_lose_everything(self):
        """Its only large layer has 8 channels: leaving it high would leave nothing."""
        proto = model("(float[1,1,28,28] x) => (float[1,8,24,24] y) { y = Conv(x, w) }", w=normal(8, 1, 5, 5))
        assert [op for op, *_ in summary(proto)] == ["Conv"]

    @pytest.mark.parametrize(("width", "kept"), [(2048, {"z", "q"}), (96, {"z"}), (8, set())])
    def test_the_cheapest_go_first(self, width, kept):
        """z takes 1024 multiply-accumulates, q 1536, s 16 384, and y as many as its width times 128."""
        proto = model(
            f"(float[N,128] x) => (float[N,{width}] y, float[N,8] z, float[N,12] q) {{ y = MatMul(x, w) "
            "z = MatMul(x, v) s = MatMul(x, u) q = MatMul(s, r) }",
            w=normal(128, width), v=normal(128, 8), u=normal(128, 128), r=normal(128, 12),
        )  # fmt: skip
        assert set(reasons(proto)) == kept


def test_products_of_attention_stay_high_and_others_do_not():
    wide = model("(float[N,S,16] x) => (float[N,S,S] y) { k = Transpose<perm=[0,2,1]>(x) y = MatMul(x, k) }")
    assert summary(wide) == [("MatMul", ("x", "k"), None, 0)]
    assert planned(wide).groups == (("x", "k"),)
    found = reasons(embedding())
    assert found["s"] == found["a"] == ATTENTION_KEPT


def test_products_of_attention_where_a_builder_may_be_asked():
    loaded = prepared(embedding())
    found = plan(loaded, settings(attention=True))
    outputs = {str(node.name): str(node.outputs[0].name) for node in loaded.graph.all_nodes()}
    products = {outputs[point.node]: point for point in found.points if point.rule == ATTENTION_RULE}
    assert products.keys() == {"s", "a"}
    assert {point.node for point in products.values()} == found.attention
    assert all(point.activations == (0, 1) for point in products.values())


def test_a_product_of_a_value_with_itself_has_one_pair():
    assert summary(model("(float[16,16] x) => (float[16,16] y) { y = MatMul(x, x) }")) == [("MatMul", ("x",), None, 0)]


def test_a_body_that_nothing_can_be_observed_in_is_refused():
    proto = model(
        "(float[2,4] start, float[5,2,4] x, bool c) => (float[2,4] y) { "
        "y = Scan<num_scan_inputs=1, body = step (float[2,4] s, float[2,4] v) => (float[2,4] n) { "
        "n = If(c) <then_branch = t () => (float[2,4] a) { a = MatMul(v, w) }, "
        "else_branch = e () => (float[2,4] b) { b = Add(s, v) }> }>(start, x) }",
        w=normal(4, 4),
    )  # fmt: skip
    assert reasons(proto)["a"] == "inside an If in a Scan, where no ranges can be observed"


def test_the_plan_can_hold_all_that_may_be_quantized_at_any_shapes():
    proto = model(
        "(float[N,300] x) => (float[N,8] y) { a = MatMul(x, v) y = MatMul(a, w) }", v=normal(300, 64), w=normal(64, 8)
    )
    loaded = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    found, whole = plan(loaded, settings()), plan(loaded, settings(), skip_unprofitable=False)
    assert found.tensors == ("x",)
    assert list(found.kept.values()) == ["quantization not profitable: 8 output channels, fewer than 16"]
    assert whole.tensors == ("x", "a")
    assert not whole.kept


def test_keeping_nodes_changes_nothing_else():
    """Nor does it use up the share of the work that may be skipped as unprofitable."""
    proto = model(
        "(float[64,512] x) => (float[64,128] y, float[64,8] z) { a = MatMul(x, wa) b = MatMul(a, wb) y = MatMul(b, wc) "
        "z = MatMul(b, wd) }",
        wa=normal(512, 64), wb=normal(64, 5120), wc=normal(5120, 128), wd=normal(5120, 8),
    )  # fmt: skip
    graph = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    whole = plan(graph, settings())
    part = whole.keep({"matmul_0": "sensitive", "matmul_3": "kept already", "unknown": "no node"})
    assert [point.node for point in whole.points] == ["matmul_0", "matmul_1", "matmul_2"]
    assert [point.node for point in part.points] == ["matmul_1", "matmul_2"]
    assert part.kept == {
        "matmul_0": "sensitive",
        "matmul_3": "quantization not profitable: 8 output channels, fewer than 16",
    }


def block() -> ir.Model:
    """A residual block, a pool beside it, and a second product that the sum feeds."""
    return prepared(
        model(
            "(float[1,16,8,8] x) => (float[1,16,8,8] y, float[1,16,4,4] z) { "
            "a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, v) s = Add(b, x) y = Conv(s, u) "
            "p = AveragePool<kernel_shape=[2,2],strides=[2,2]>(s) z = Conv(p, u) }",
            w=normal(16, 16, 3, 3), v=normal(16, 16, 3, 3), u=normal(16, 16, 1, 1),
        )
    )  # fmt: skip


class TestKeeping:
    """``keep`` gives a smaller plan; the plan it is called on stays what it was."""

    def test_what_joined_a_node_goes_with_it(self):
        whole = plan(block(), settings())
        assert [point.result for point in whole.points] == ["a", "b", "s", "y", "p", "z"]
        reader = next(point.node for point in whole.points if point.result == "z")
        part = whole.keep({reader: "sensitive"})
        assert [point.result for point in part.points] == ["a", "b", "s", "y"]
        assert part.kept[reader] == "sensitive"
        assert len(part.kept) == 2, "the pool, too"
        both = part.keep({next(point.node for point in part.points if point.result == "y"): "sensitive"})
        assert [point.result for point in both.points] == ["a", "b"]
        assert len(whole.points) == 6
        assert not whole.kept

    def test_the_first_reason_stands(self):
        whole = plan(block(), settings())
        once = whole.keep({whole.points[0].node: "first"})
        assert once.keep({whole.points[0].node: "second"}).kept == once.kept

    def test_nodes_that_are_no_points_are_ignored(self):
        whole = plan(block(), settings())
        assert whole.keep({"unknown": "no reason"}) == whole

    def test_all_but_some(self):
        whole = plan(block(), settings())
        wanted = whole.points[1].node
        assert whole.keep_all_but({wanted}, "not chosen").nodes == {wanted}

    def test_int8_nodes(self):
        whole = plan(block(), settings())
        found = plan(block(), settings("best", int8_nodes=(whole.points[0].node, "nothing*")))
        assert found.nodes == {whole.points[0].node}
        assert found.kept[whole.points[1].node] == "not among the nodes that may compute in int8"

    def test_the_plan_serves_every_copy_of_the_graph(self):
        assert plan(block(), settings()) == plan(block(), settings())


class TestRanges:
    def test_nodes_without_a_usable_range_are_kept(self):
        found = plan(block(), settings()).with_ranges({"x": 2.0, "s": 0.0, "p": 0.0}, {"r": "'r' is too wide"})
        assert [point.result for point in found.points] == ["a"]
        reasons = {point.result: found.kept.get(point.node, "") for point in plan(block(), settings()).points}
        assert reasons["b"] == "'r' is too wide"
        assert "zero in all samples" in reasons["y"]
        assert "no quantized consumer" in reasons["s"]

    def test_scales_that_float16_does_not_hold(self):
        """INT8 divides by 127, and the smallest normal float16 is 2**-14."""
        amax = {"x": 2.0, "r": 127 * 2.0**-14, "s": 126 * 2.0**-14, "p": 126 * 2.0**-14}
        plain, half = (plan(block(), settings(each)).with_ranges(amax) for each in ("int8", "best"))
        assert len(plain.points) == 6
        assert [point.result for point in half.points] == ["a", "b"]

    def test_one_scale_for_what_only_moves(self):
        proto = model(
            "(float[1,16,8,8] x) => (float[1,16,8,8] y, float[1,16,4,4] z) { y = Conv(x, w) "
            "m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) z = Conv(m, w) }",
            w=normal(16, 16, 1, 1),
        )
        found = planned(proto).with_ranges({"x": 0.0, "m": 3.0})
        assert found.limits == {"x": 3.0, "m": 3.0}, "a tensor that was always 0 takes the scale of its group"
        rest = found.keep({found.points[1].node: "sensitive"})
        assert rest.groups == ()


class TestCorrections:
    def corrected(self, kept: dict[str, str]) -> tuple[QuantizationPlan, ir.Model, QuantizationPlan]:
        """The plan with biases for all and these nodes kept, the corrected graph, and its plan."""
        loaded = block()
        whole = plan(loaded, settings()).with_ranges(dict.fromkeys(("x", "r", "s", "p"), 1.0))
        ones = packed(np.ones(16, np.float32))
        found = whole.with_corrections(Corrections(biases={"a": ones, "b": ones}, kept=kept))
        return found, loaded, apply_corrections(loaded, found)

    def test_only_biases_of_quantized_nodes_are_corrected(self):
        loaded = block()
        second = next(str(node.name) for node in loaded.graph if node.outputs[0].name == "b")
        found, loaded, _ = self.corrected({second: "sensitive"})
        assert found.kept[second] == "sensitive"
        biases = {str(node.outputs[0].name): len(node.inputs) > 2 for node in loaded.graph if node.op_type == "Conv"}
        assert biases == {"a": True, "b": False, "y": False, "z": False}

    def test_behind_an_inserted_multiplication_no_tensor_shares_a_scale_and_nothing_joins(self):
        whole = plan(block(), settings()).with_ranges(dict.fromkeys(("x", "r", "s", "p"), 1.0))
        found = whole.smoothed({"s": Smoothing(factors=packed(np.ones(1)), inserted=True, amax=0.5)})
        assert [point.result for point in found.points] == ["a", "b", "y", "p", "z"], "the sum is not read quantized"
        assert found.limits["s"] == 0.5

    @pytest.mark.parametrize(("scale", "kept"), [(1.0, False), (1e-5, True)])
    def test_weights_whose_scales_float16_does_not_hold_are_kept(self, scale, kept):
        proto = model(
            "(float[1,16,8,8] x) => (float[1,16,8,8] y) { y = Conv(x, w) }", w=normal(16, 16, 1, 1, scale=scale)
        )
        for precision in ("int8", "best"):
            loaded = prepared(proto)
            found = apply_corrections(loaded, plan(loaded, settings(precision)).with_ranges({"x": 1.0}))
            assert bool(found.kept) == (kept and precision == "best")

    def test_the_loss_of_a_weight_is_that_of_its_squared_error(self):
        """Two channels: one needs twice the smallest normal float16, one a tenth of it."""
        least = 2.0**-14
        weight = np.array([[127 * 2 * least], [127 * least / 10]], np.float32)
        wanted, held = 2**2 + 0.1**2, 2**2 + 1**2
        assert scale_loss(weight, 0, INT8, FP16) == pytest.approx(10 * np.log10(held / wanted), rel=1e-5)
        assert scale_loss(weight, 0, INT8, FP32) == 0


@pytest.mark.parametrize("precision", ["int8", "best"])
def test_a_build_plans_once_a_stage(precision, tmp_path, monkeypatch):
    """Observing, calibrating and lowering make a plan each; all trials between work on it."""
    made: list[str] = []

    def counting(*args, **more):
        made.append("plan")
        return plan(*args, **more)

    monkeypatch.setattr("trtpipe.quantization.plan.plan", counting)
    proto = conv_net()
    path = save(onnx.shape_inference.infer_shapes(proto), tmp_path / "simplified.onnx")
    np.savez(tmp_path / "data.npz", **feed_for(proto, seed=1, dim=96))
    recipe = CalibrationRecipe(data=DataSettings(source=str(tmp_path / "data.npz"), batch=4), method="auto")
    settings = trtpipe.Settings(cache_dir=tmp_path / "cache")
    trtpipe.calibrate(path, tmp_path, precision=precision, recipe=recipe, settings=settings)
    trtpipe.lower(
        path, tmp_path, ranges=tmp_path / "ranges.json", precision=precision, recipe=recipe, settings=settings
    )
    assert Ranges.read(tmp_path / "ranges.json").corrections.trials, "there were trials"
    assert len(made) == 3
