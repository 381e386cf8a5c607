from __future__ import annotations

import onnx_ir as ir
import pytest
from models import conv_net, feed_for, model, normal, run

from trtpipe.errors import InputError, StageError
from trtpipe.exporter.naming import check_dynamic, name_dimensions, name_interface, strip_metadata
from trtpipe.exporter.request import TorchRequest


def load(proto) -> ir.Model:
    return ir.serde.deserialize_model(proto)


def request(**shapes) -> TorchRequest:
    return TorchRequest(
        module="", function="", workdir="", opset=20, shapes=shapes, input_names=(), output_names=()
    )  # fmt: skip


def test_names_of_inputs_and_outputs():
    loaded = load(conv_net())
    name_interface(loaded, ["image"], ["logits"])
    feed = feed_for(conv_net())
    found = run(ir.serde.serialize_model(loaded), {"image": feed["x"]})
    assert (found["logits"] == run(conv_net(), feed)["y"]).all()


@pytest.mark.parametrize("name", ["w", "c", "bias"])
def test_whatever_else_has_the_name_gets_another(name):
    loaded = load(conv_net())
    name_interface(loaded, ["x"], [name])
    feed = feed_for(conv_net())
    assert (run(ir.serde.serialize_model(loaded), feed)[name] == run(conv_net(), feed)["y"]).all()


def test_inputs_and_outputs_may_swap_their_names():
    proto = model("(float[2] a, float[2] b) => (float[2] c, float[2] d) { c = Relu(a) d = Neg(b) }")
    loaded = load(proto)
    name_interface(loaded, ["b", "a"], ["d", "c"])
    feed = {"b": normal(2), "a": normal(2, seed=1)}
    expected = run(proto, {"a": feed["b"], "b": feed["a"]})
    found = run(ir.serde.serialize_model(loaded), feed)
    assert (found["d"] == expected["c"]).all()
    assert (found["c"] == expected["d"]).all()


def test_names_that_are_too_many_or_stand_twice():
    with pytest.raises(InputError, match=r"2 input names were given \(a, b\), the model has 1 inputs"):
        name_interface(load(conv_net()), ["a", "b"], ["y"])
    for inputs, outputs in ((["x"], ["x"]), (["a", "a"], ["y"])):
        graph = "(float[2] x) => (float[2] y) { y = Relu(x) }"
        two = "(float[2] x, float[2] z) => (float[2] y) { y = Add(x, z) }"
        with pytest.raises(InputError, match="two inputs or outputs are called"):
            name_interface(load(model(two if len(inputs) == 2 else graph)), inputs, outputs)


def test_symbols_say_where_they_come_from():
    loaded = load(model("(float[s0,s1] x, float[s0,s2,3] z) => (float[a,b] y) { f = Flatten(z) y = Add(x, f) }"))
    inner = next(iter(loaded.graph)).outputs[0]
    inner.shape = ir.Shape(["2*s1 + s0", "s10", None, 4])
    name_dimensions(loaded)
    shapes = [[getattr(dim, "value", dim) for dim in value.shape] for value in loaded.graph.inputs]
    assert shapes == [["batch", "x_1"], ["batch", "z_1", 3]]
    assert [getattr(dim, "value", dim) for dim in inner.shape] == ["2*x_1 + batch", "s10", None, 4]


def test_two_different_batches_have_two_names():
    loaded = load(model("(float[s0] x, float[s1] z) => (float[s0] y) { y = Relu(x) }"))
    name_dimensions(loaded)
    assert [value.shape[0].value for value in loaded.graph.inputs] == ["batch", "z_0"]
    assert loaded.graph.outputs[0].shape[0].value == "batch"


def test_a_symbol_with_one_value_is_that_number_and_refused_where_it_should_vary():
    loaded = load(conv_net())
    loaded.graph.inputs[0].shape = ir.Shape(["2", 3, 8, 8])
    name_dimensions(loaded)
    assert list(loaded.graph.inputs[0].shape) == [2, 3, 8, 8]
    check_dynamic([("x", tuple(loaded.graph.inputs[0].shape))], request(x=((2, 3, 8, 8),) * 3))
    with pytest.raises(StageError, match=r"dimension 0 of input 'x' is 1\.\.8 in the profile, .* fixes it to 2"):
        check_dynamic([("x", (2, 3, 8, 8))], request(x=((1, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8))))
    check_dynamic([("x", ("batch", 3, 8, 8))], request(x=((1, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8))))


def test_metadata_is_dropped_wherever_it_is():
    loaded = load(conv_net())
    node = next(iter(loaded.graph))
    places = [loaded, loaded.graph, node, node.outputs[0], loaded.graph.inputs[0], loaded.graph.initializers["w"]]
    for place in places:
        place.metadata_props["trace"] = "/home/somebody/model.py"
    node.doc_string = loaded.doc_string = "/home/somebody/model.py"
    strip_metadata(loaded)
    assert b"somebody" not in ir.serde.serialize_model(loaded).SerializeToString()
