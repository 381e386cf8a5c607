from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import conv_net, feed_for, model, normal, run, transposed, with_outputs
from planning import settings

from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.graph_pass import run_passes
from trtpipe.quantization.bias_correction import CorrectBias, correct_means, correctable, measure_means
from trtpipe.quantization.plan import plan


def chain() -> onnx.ModelProto:
    """Every kind of bias: a Conv's and a missing one, a ConvTranspose's, a Gemm's, an Add's behind a MatMul."""
    return model(
        "(float[N,16,4,4] x) => (float[N,16] y) { a = Conv<pads=[1,1,1,1]>(x, k, o) r = Relu(a) b = Conv(r, l) "
        "c = ConvTranspose(b, t, o) p = GlobalAveragePool(c) f = Flatten(p) g = Gemm(f, w, o) h = Relu(g) "
        "m = MatMul(h, v) y = Add(m, o) }",
        k=normal(16, 16, 3, 3, seed=1),
        l=normal(16, 16, 1, 1, seed=2),
        t=normal(16, 16, 2, 2, seed=3),
        w=normal(16, 16, seed=4),
        v=normal(16, 16, seed=5),
        o=normal(16, seed=6),
    )


def loaded(proto: onnx.ModelProto) -> tuple[ir.Model, dict[str, int]]:
    found = ir.serde.deserialize_model(proto)
    clean_up(found)
    return found, correctable(found, plan(found, settings()))


def test_every_kind_of_bias_is_corrected() -> None:
    proto = chain()
    _, nodes = loaded(proto)
    assert nodes == {"a": 16, "b": 16, "c": 16, "g": 16, "m": 16}
    feed = feed_for(proto)
    for name in nodes:
        one, _ = loaded(proto)
        correction = normal(16, seed=8)
        run_passes(one, [CorrectBias({name: correction})])
        rewritten = ir.serde.serialize_model(one)
        onnx.checker.check_model(rewritten, full_check=True)
        value = "y" if name == "m" else name
        before, after = (run(with_outputs(each, [value]), feed)[value] for each in (proto, rewritten))
        shape = (1, 16, *(1,) * (before.ndim - 2))
        np.testing.assert_allclose(after, before + correction.reshape(shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [chain, conv_net, transposed])
def test_means(make) -> None:  # type: ignore[no-untyped-def]
    proto = make()
    found, nodes = loaded(proto)
    names = measure_means(found, nodes)
    assert nodes
    feed = feed_for(proto)
    means = run(ir.serde.serialize_model(found), feed, list(names.values()))
    for node, name in names.items():
        value = run(with_outputs(proto, [node]), feed)[node]
        axes = tuple(range(2, value.ndim)) if value.ndim > 2 else (0,)
        np.testing.assert_allclose(np.squeeze(means[name]), np.squeeze(value.mean(axis=axes)), rtol=1e-4, atol=1e-5)


def test_one_run_gives_every_node_the_mean_it_shall_have() -> None:
    """In a model whose weights are off, and so all that comes after them."""
    proto = chain()
    exact, nodes = loaded(proto)
    names = measure_means(exact, nodes)
    feed = feed_for(proto)
    expected = run(ir.serde.serialize_model(exact), feed, list(names.values()))
    wrong = onnx.ModelProto()
    wrong.CopyFrom(proto)
    for tensor in wrong.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array((array * 1.3 + 0.1).astype(np.float32), tensor.name))
    graph, _ = loaded(wrong)
    own = measure_means(graph, nodes)  # like all readers, they see the corrected results
    correcting = correct_means(graph, nodes)
    given = {each.expected: expected[names[node]] for node, each in correcting.items()}
    wanted = [*own.values(), *(each.added for each in correcting.values())]
    found = run(ir.serde.serialize_model(graph), {**feed, **given}, wanted)
    for node, each in correcting.items():
        np.testing.assert_allclose(found[own[node]], expected[names[node]], rtol=1e-3, atol=1e-3, err_msg=node)
        assert np.abs(found[each.added]).max() > 0.1


def branching() -> onnx.ModelProto:
    return model(
        "(float[N,16] x, bool c) => (float[N,16] y) { y = If(c) <then_branch = t () => (float[N,16] a) "
        "{ h = Gemm(x, w) a = Relu(h) }, else_branch = e () => (float[N,16] b) { k = Gemm(x, w, o) b = Sigmoid(k) }> }",
        w=normal(16, 16),
        o=normal(16, seed=1),
    )


def test_branches_are_corrected() -> None:
    proto = branching()
    found, nodes = loaded(proto)
    assert nodes == {"h": 16, "k": 16}
    names = measure_means(found, nodes)
    means = run(ir.serde.serialize_model(found), {**feed_for(proto), "c": np.asarray(False)}, list(names.values()))
    assert means[names["h"]].size == 0, "a branch that was not taken has no means"
    assert means[names["k"]].shape == (1, 16, 1)
    rewritten, _ = loaded(proto)
    run_passes(rewritten, [CorrectBias({"h": np.full(16, 3, np.float32)})])
    feed = {**feed_for(proto), "c": np.asarray(True)}
    before, after = (run(each, feed)["y"] for each in (proto, ir.serde.serialize_model(rewritten)))
    positive = before > 0
    np.testing.assert_allclose(after[positive], before[positive] + 3, rtol=1e-5)


def test_loops_are_not() -> None:
    proto = model(
        "(float[1,16] x) => (float[1,16] y) { y = Loop(trips, go, x) <body = step "
        "(int64 i, bool keep, float[1,16] state) => (bool on, float[1,16] next) "
        "{ on = Identity(keep) h = Gemm(state, w) next = Tanh(h) }> }",
        w=normal(16, 16),
        trips=np.int64(3),
        go=np.bool_(True),
    )
    found, nodes = loaded(proto)
    assert any(point.op == "Gemm" for point in plan(found, settings()).points)
    assert nodes == {}
