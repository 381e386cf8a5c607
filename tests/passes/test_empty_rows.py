"""Rows of attention that see no key give 0, whatever number hides keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, normal, run

from trtpipe.autocast.mask_bounds import BoundMasks
from trtpipe.passes.empty_rows import AskMasks
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes

SEEN = np.array([[True, True, False], [False, False, False]])
FEED = {"s": normal(4, 2, 3), "m": SEEN}
TEXT = """(float[4,2,3] s, bool[2,3] m) => (float[4,2,3] y) {{
    a = Where(m, {})  t = Add({})  p = Softmax<axis={}>(t)  n = IsNaN(p)  y = Where(n, {})
}}"""


def graph(
    hidden: float = -np.inf, mask: str = "zero, hidden", add: str = "s, a", axis: int = -1, put: str = "zero, p"
) -> ir.Model:
    constants: dict[str, Any] = {"zero": np.float32(0), "hidden": np.float32(hidden), "one": np.float32(1)}
    proto = model(TEXT.format(mask, add, axis, put), opset=20, **constants)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def ops(given: ir.Model) -> set[str]:
    return {node.op_type for node in given.graph}


def asked(given: ir.Model, *, written_by_torch: bool = False) -> bool:
    run_passes(given, [InferTypes(), AskMasks(written_by_torch=written_by_torch)])
    return "IsNaN" not in ops(given)


@pytest.mark.parametrize("opset", [16, 20])
@pytest.mark.parametrize(
    "form", [{}, {"add": "a, s"}, {"axis": 2}, {"mask": "hidden, zero"}, {"put": "one, p"}], ids=str
)
def test_the_results_are_the_same(form: dict[str, Any], opset: int) -> None:
    given = graph(**form)
    given.graph.opset_imports[""] = opset
    before = run(ir.to_proto(given), FEED)["y"]
    assert asked(given)
    np.testing.assert_array_equal(run(ir.to_proto(given), FEED)["y"], before)


def test_rows_stay_empty_when_the_mask_is_bounded() -> None:
    given = graph()
    assert asked(given)
    run_passes(given, [BoundMasks()])
    found = run(ir.to_proto(given), FEED)["y"]
    assert np.isfinite(found).all()
    assert not found[:, 1].any()
    assert found[:, 0].sum(-1) == pytest.approx(np.ones(4))


@pytest.mark.parametrize(
    "form",
    [{"hidden": -3.4e38}, {"hidden": -5.0}, {"mask": "one, hidden"}, {"axis": 1}, {"put": "zero, s"}, {"add": "s, s"}],
    ids=str,
)
def test_what_means_something_else_is_left(form: dict[str, Any]) -> None:
    assert not asked(graph(**form))


@pytest.mark.parametrize("made_for", ["aten.scaled_dot_product_attention.default", "aten.isnan.default"])
def test_the_lowest_float_means_infinity_where_torch_wrote_attention(made_for: str) -> None:
    given = graph(hidden=-3.4028235e38)
    for node in given.graph:
        node.metadata_props["pkg.torch.onnx.fx_node"] = f"%x = call_function[target=torch.ops.{made_for}]"
    assert asked(given, written_by_torch=True) is (made_for != "aten.isnan.default")
    assert run(ir.to_proto(given), FEED)["y"][:, 1].any() == (made_for == "aten.isnan.default")
