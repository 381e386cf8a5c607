from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from models import branches, feed_for, looped, model, normal, run, weights_of

from trtpipe.passes.expose import expose
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes


def exposed(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    loaded = ir.serde.deserialize_model(proto)
    run_passes(loaded, [InferTypes()])
    expose(loaded, names)
    return ir.serde.serialize_model(loaded)


def test_both_branches_of_an_if() -> None:
    proto = exposed(branches(), "h", "k", "r")
    weights = weights_of(branches())
    for taken, expected in (
        (True, {"h": lambda r: r @ weights["w"], "k": None}),
        (False, {"h": None, "k": lambda r: 1 / (1 + np.exp(-r))}),
    ):
        feed = {**feed_for(branches()), "c": np.asarray(taken)}
        found = run(proto, feed)
        r = np.maximum(feed["x"], 0)
        np.testing.assert_array_equal(found["r"], r)
        for name, value in expected.items():
            if value is None:
                assert found[name].shape == (0,)
            else:
                np.testing.assert_allclose(found[name], value(r), rtol=1e-5, atol=1e-6)


def test_every_iteration_of_a_loop() -> None:
    proto = exposed(looped(), "h")
    feed = feed_for(looped())
    w, state, seen = weights_of(looped())["w"], feed["x"], []
    for _ in range(3):
        seen.append(state @ w)
        state = np.tanh(seen[-1])
    np.testing.assert_allclose(run(proto, feed)["h"], np.concatenate(seen, axis=None), rtol=1e-4, atol=1e-5)


def test_the_state_of_a_loop_and_what_comes_after_it() -> None:
    """The states precede the scan outputs, so a new state moves those; the loop's own results stay what they were."""
    proto = model(
        "(float[1,4] x) => (float[1,4] y, float[t,1,4] z) { y, z = Loop(trips, go, x) <body = step "
        "(int64 i, bool keep, float[1,4] state) => (bool on, float[1,4] next, float[1,4] seen) "
        "{ on = Identity(keep) h = Mul(state, two) next = Sub(h, one) seen = Neg(h) }> }",
        trips=np.int64(3), go=np.bool_(True), two=np.float32(2), one=np.float32(1),
    )  # fmt: skip
    x = np.float32([[1, 2, 3, 4]])
    plain, found = run(proto, {"x": x}), run(exposed(proto, "state", "z", "h", "y"), {"x": x})
    states = [x, 2 * x - 1, 4 * x - 3]
    np.testing.assert_array_equal(found["state"], np.concatenate(states, axis=None))
    np.testing.assert_array_equal(found["h"], 2 * np.concatenate(states, axis=None))
    for name, value in plain.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_loop_whose_state_grows_and_whose_branch_is_taken_sometimes() -> None:
    proto = model(
        "(float[2] x) => (float[n] y) { y = Loop(trips, , x) <body = step "
        "(int64 i, bool keep, float[m] state) => (bool on, float[k] next) "
        "{ on = Identity(go) odd = Equal(i, one) part = If(odd) <then_branch = t () => (float[2] a) "
        "{ a = Mul(x, two) }, else_branch = e () => (float[2] b) { b = Neg(x) }> "
        "next = Concat<axis=0>(state, part) }> }",
        trips=np.int64(3), go=np.bool_(True), one=np.int64(1), two=np.float32(2),
    )  # fmt: skip
    x = np.float32([1, -3])
    found = run(exposed(proto, "a", "next"), {"x": x})
    np.testing.assert_array_equal(found["a"], 2 * x)
    np.testing.assert_array_equal(found["next"], [*x, *-x, *x, *-x, *2 * x, *x, *-x, *2 * x, *-x])


def test_every_step_of_a_scan() -> None:
    proto = model(
        "(float[4] start, float[5,4] x) => (float[4] y, float[5,4] z) { "
        "y, z = Scan<num_scan_inputs=1, scan_output_directions=[0], body = step (float[4] s, float[4] v) "
        "=> (float[4] n, float[4] o) { m = Mul(v, two) n = Add(s, m) o = Identity(n) }>(start, x) }",
        two=np.float32(2),
    )
    x = normal(5, 4)
    found = run(exposed(proto, "m", "y"), {"start": np.zeros(4, np.float32), "x": x})
    np.testing.assert_array_equal(found["m"], x * 2)
    np.testing.assert_allclose(found["y"], x.sum(axis=0) * 2, rtol=1e-5)


def test_a_branch_inside_a_branch() -> None:
    proto = model(
        "(float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = t () => (float[2] a) { "
        "a = If(c) <then_branch = u () => (float[2] d) { e = Mul(x, two) d = Relu(e) }, "
        "else_branch = v () => (float[2] f) { f = Identity(x) }> }, "
        "else_branch = w () => (float[2] b) { b = Neg(x) }> }",
        two=np.float32(2),
    )
    watched, x = exposed(proto, "e"), np.array([1, -3], np.float32)
    assert run(watched, {"x": x, "c": np.asarray(True)})["e"].tolist() == [2, -6]
    assert run(watched, {"x": x, "c": np.asarray(False)})["e"].size == 0
