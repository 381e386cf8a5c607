from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from models import model, normal

from trtpipe.passes.macs import Work, sizes_of, work_of


def loaded(proto: onnx.ModelProto) -> ir.Model:
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))


def work(proto: onnx.ModelProto, **sizes: int) -> Work | None:
    return work_of(list(loaded(proto).graph)[-1], sizes)


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        # every one of 2x6x3x3 results sums 4x3x3 products
        (model("(float[2,4,5,5] x) => (float[2,6,3,3] y) { y = Conv(x, w) }", w=normal(6, 4, 3, 3)),
         Work(2 * 6 * 9 * 36, 2 * 9, 36, 6)),
        (model("(float[1,4,5,5] x) => (float[1,6,3,3] y) { y = Conv<group=2>(x, w) }", w=normal(6, 2, 3, 3)),
         Work(6 * 9 * 18, 9, 18, 6)),
        (model("(float[1,4,5,5] x) => (float[1,4,3,3] y) { y = Conv<group=4>(x, w) }", w=normal(4, 1, 3, 3)),
         Work(4 * 9 * 9, 9, 9, 4, channelwise=True)),
        # every one of 4x5x5 inputs meets 6x2x2 weights; without overlap every result sums 4 products
        (model("(float[1,4,5,5] x) => (float[1,6,10,10] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
               w=normal(4, 6, 2, 2)), Work(100 * 24, 25, 4, 6)),
        (model("(float[1,4,5,5] x) => (float[1,6,10,10] y) { y = ConvTranspose<strides=[2,2],group=2>(x, w) }",
               w=normal(4, 3, 2, 2)), Work(100 * 12, 25, 2, 6)),
        (model("(float[7,4] x) => (float[7,5] y) { y = Gemm(x, w) }", w=normal(4, 5)), Work(7 * 20, 7, 4, 5)),
        (model("(float[4,7] x) => (float[7,5] y) { y = Gemm<transA=1,transB=1>(x, w) }", w=normal(5, 4)),
         Work(7 * 20, 7, 4, 5)),
        (model("(float[2,7,4] x) => (float[2,7,5] y) { y = MatMul(x, w) }", w=normal(4, 5)), Work(14 * 20, 14, 4, 5)),
        (model("(float[2,7,4] x, float[2,4,9] z) => (float[2,7,9] y) { y = MatMul(x, z) }"),
         Work(14 * 36, 14, 4, 9)),
        (model("(float[2,7,4] x) => (float[2,3,4] y) { y = MatMul(w, x) }", w=normal(3, 7)), Work(2 * 3 * 28, 3, 7, 4)),
        (model("(float[7,4] x) => (float[7] y) { y = MatMul(x, w) }", w=normal(4)), Work(28, 7, 4, 1)),
    ],
)  # fmt: skip
def test_counted_by_hand(proto, expected):
    assert work(proto) == expected


def test_open_dimensions_count_as_1_unless_their_size_is_given():
    proto = model("(float[N,S,4] x) => (float[N,S,5] y) { y = MatMul(x, w) }", w=normal(4, 5))
    assert work(proto) == Work(20, None, 4, 5)
    assert work(proto, N=2, S=7) == Work(14 * 20, 14, 4, 5)


def test_sizes_come_from_the_shapes_of_the_inputs():
    proto = model("(float[N,S,4] x, float[3,S] z) => (float[N,S,4] y) { y = Relu(x) }")
    assert sizes_of(loaded(proto), {"x": (2, 7, 4)}) == {"N": 2, "S": 7}
    assert sizes_of(loaded(proto), {}) == {}


def test_without_any_shape_there_is_nothing_to_tell():
    proto = model("(float x, float z) => (float y) { y = MatMul(x, z) }")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.ClearField("shape")
    assert work(proto) is None


def test_other_operators_have_no_work():
    assert work(model("(float[2] x) => (float[2] y) { y = Relu(x) }")) is None


def test_a_product_with_weights_is_counted_without_knowing_the_data():
    proto = model("(float[N,4] x) => (float[N,5] y) { s = Relu(x) y = MatMul(s, w) }", w=normal(4, 5))
    bare = ir.serde.deserialize_model(proto)  # no shapes inside
    assert work_of(list(bare.graph)[-1]) == Work(20, None, 4, 5)
