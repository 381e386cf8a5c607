from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from models import branches, model, normal

from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.macs import work_of
from trtpipe.quantization.mac_count import count_macs


def counted(proto: onnx.ModelProto, **shapes: tuple[int, ...]) -> ir.Model:
    loaded = ir.serde.deserialize_model(proto)
    clean_up(loaded)
    if shapes:
        count_macs(loaded, shapes)
    return ir.serde.deserialize_model(ir.serde.serialize_model(loaded))  # metadata must survive the file


OPEN = model(
    "(float[N,4,H,W] x) => (float[N,6,a,b] y) { c = Conv<strides=[2,2]>(x, w) r = Relu(c) y = Conv(r, v) }",
    w=normal(8, 4, 2, 2), v=normal(6, 8, 1, 1),
)  # fmt: skip


def macs(loaded: ir.Model) -> list[int]:
    return [work.macs for node in loaded.graph.all_nodes() if (work := work_of(node)) is not None]


def test_open_images_are_counted_at_their_typical_size():
    # 10x12 becomes 5x6 by the stride: 2 x 8 x 30 results of 16 products, then 2 x 6 x 30 of 8
    assert macs(counted(OPEN, x=(2, 4, 10, 12))) == [2 * 8 * 30 * 16, 2 * 6 * 30 * 8]


def test_without_shapes_open_dimensions_count_as_1():
    assert macs(counted(OPEN)) == [8 * 16, 6 * 8]


def test_the_graph_keeps_its_own_shapes():
    plain, found = counted(OPEN), counted(OPEN, x=(2, 4, 10, 12))
    for one, other in zip(plain.graph, found.graph, strict=True):
        assert str(one.outputs[0].shape) == str(other.outputs[0].shape)
    assert str(found.graph.inputs[0].shape) == "[N,4,H,W]"


def test_bodies_are_counted_too():
    assert macs(counted(branches(), x=(2, 4))) == [2 * 4 * 4]


@pytest.mark.parametrize("shape", [(2, 5, 10, 12), (2, 4)])
def test_shapes_that_do_not_fit_are_no_reason_to_fail(shape):
    assert len(macs(counted(OPEN, x=shape))) == 2
