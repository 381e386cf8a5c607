from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from models import CASES, conv_net, feed_for, listed_initializers, model, normal, run, save, weights_of
from onnx import helper

from trtpipe.config.stage_settings import ExportStageSettings
from trtpipe.errors import InputError, StageError
from trtpipe.exporter.onnx_import import copy_checked
from trtpipe.exporter.request import OnnxRequest
from trtpipe.preflight import onnx_io, seal_model
from trtpipe.report.stage_records import ExportRecord


@pytest.fixture
def export(workdir, tmp_path_factory):
    """(exported graph, record, names) of the file at ``path``."""

    def copy(path, **settings):
        reports = []
        sealed = seal_model(path, tmp_path_factory.mktemp("sealed"))
        reply = copy_checked(
            OnnxRequest(
                source=str(sealed), workdir=str(workdir), label=str(path), settings=ExportStageSettings(**settings)
            ),
            lambda *report: reports.append(report),
        )
        assert reports[-1] == ("check", 2, 2)
        record = ExportRecord.read(workdir / "model.onnx.json")
        return onnx.load(workdir / "model.onnx"), record, reply.names

    return copy


@pytest.mark.parametrize("name", CASES)
def test_the_copy_computes_the_same(export, tmp_path, name):
    proto = CASES[name]()
    copied, record, names = export(save(proto, tmp_path / "given.onnx"))
    assert names == ("model.onnx",)
    feed = feed_for(proto)
    found, expected = run(copied, feed), run(proto, feed)
    assert list(found) == list(expected)
    for output, values in expected.items():
        np.testing.assert_array_equal(found[output], values)
    assert record.weight_bytes == sum(weight.nbytes for weight in weights_of(proto).values())
    assert record.opset == proto.opset_import[0].version
    assert {spec.name for spec in record.contract.inputs} == set(feed)


def test_nodes_of_one_name_get_names_of_their_own(export, tmp_path):
    proto = model("(float[2] x) => (float[2] y) { a = Relu(x) b = Neg(a) c = Abs(b) d = Exp(c) y = Neg(d) }")
    for node, name in zip(proto.graph.node, ["a", "a_2", "a", "", "a"], strict=True):
        node.name = name
    copied, _, _ = export(save(proto, tmp_path / "given.onnx"))
    assert [node.name for node in copied.graph.node] == ["a", "a_2", "a_3", "", "a_4"]
    feed = {"x": normal(2)}
    np.testing.assert_array_equal(run(copied, feed)["y"], -np.exp(np.maximum(feed["x"], 0)))


def test_record_of_the_model(export, tmp_path):
    proto = conv_net()
    proto.producer_name, proto.producer_version = "pytorch", "2.13"
    _, record, _ = export(save(proto, tmp_path / "given.onnx"))
    assert record.exporter == "ONNX file by pytorch 2.13"
    assert record.nodes == 6
    assert [str(spec) for spec in record.contract.inputs] == ["x: float32[Nx3x8x8]"]
    assert record.parity == ()


def test_a_model_of_an_unknown_producer(export, tmp_path):
    assert export(save(conv_net(), tmp_path / "given.onnx"))[1].exporter == "ONNX file by an unknown producer"


def test_bytes_do_not_depend_on_place_or_name(export, tmp_path, workdir):
    copies = []
    for place in ("a/given.onnx", "b/other name.onnx"):
        export(save(conv_net(), tmp_path / place))
        copies.append([(workdir / name).read_bytes() for name in ("model.onnx", "model.onnx.json")])
    assert copies[0] == copies[1]
    assert str(tmp_path).encode() not in b"".join(copies[0])


def test_external_data_comes_along(export, tmp_path):
    proto = model("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    onnx.save(proto, tmp_path / "given.onnx", save_as_external_data=True, location="given.bin", size_threshold=0)
    copied, record, names = export(tmp_path / "given.onnx")
    assert names == ("model.onnx",)
    assert record.weight_bytes == 64 * 64 * 4
    shutil.rmtree(tmp_path / "nothing", ignore_errors=True)
    (tmp_path / "given.bin").unlink()
    np.testing.assert_array_equal(weights_of(copied)["w"], normal(64, 64))


def test_large_models_keep_their_weights_beside_them(export, tmp_path, workdir, monkeypatch):
    monkeypatch.setattr(onnx_io, "INLINE_LIMIT", 1000)
    proto = model("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    _, _, names = export(save(proto, tmp_path / "given.onnx"))
    assert names == ("model.onnx", "model.onnx.data")
    assert (workdir / "model.onnx").stat().st_size < 2000
    np.testing.assert_array_equal(weights_of(onnx.load(workdir / "model.onnx"))["w"], normal(64, 64))


@pytest.mark.parametrize(("value", "name"), [(0, ""), (-1, ""), (None, "?"), (None, ""), (None, "-1"), (None, "None")])
def test_dimensions_that_mean_any_size_tie_nothing_together(export, tmp_path, value, name):
    proto = model("(float[N,3] a, float[M,3] b) => (float[N,3] y, float[M,3] z) { y = Relu(a) z = Relu(b) }")
    for tensor in (*proto.graph.input, *proto.graph.output):
        dim = tensor.type.tensor_type.shape.dim[0]
        if value is None:
            dim.dim_param = name
        else:
            dim.dim_value = value
    copied, record, _ = export(save(proto, tmp_path / "given.onnx"))
    assert [spec.shape for spec in record.contract.inputs] == [(None, 3), (None, 3)]
    for tensor in (*copied.graph.input, *copied.graph.output):
        dim = tensor.type.tensor_type.shape.dim[0]
        assert (dim.dim_value, dim.dim_param) == (0, "")
        assert not dim.HasField("dim_value")
    found = run(copied, {"a": normal(2, 3), "b": normal(5, 3)})
    assert [value.shape for value in found.values()] == [(2, 3), (5, 3)]


def test_symbols_with_a_meaning_are_kept(export, tmp_path):
    proto = model("(float[batch,seq] a, int64[batch] b) => (float[batch,seq] y) { y = Relu(a) }")
    _, record, _ = export(save(proto, tmp_path / "given.onnx"))
    assert [spec.shape for spec in record.contract.inputs] == [("batch", "seq"), ("batch",)]


def test_initializers_listed_as_inputs_are_no_inputs(export, tmp_path):
    _, record, _ = export(save(listed_initializers(), tmp_path / "given.onnx"))
    assert [spec.name for spec in record.contract.inputs] == ["x"]


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ("(string[2] x) => (string[2] y) { y = Identity(x) }", "input 'x' is text"),
        ("(float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x, x) }", "output 'y' is of kind sequence"),
        ("(optional(float[2]) x) => (float[2] y) { y = OptionalGetElement(x) }", "input 'x' is of kind optional"),
    ],
)
def test_what_no_engine_takes_is_named(export, tmp_path, graph, words):
    with pytest.raises(InputError, match=rf"given.onnx: {words}; inputs and outputs of engines are tensors of numbers"):
        export(save(model(graph), tmp_path / "given.onnx"))


def test_an_output_that_is_an_input_is_refused_by_name(export, tmp_path):
    with pytest.raises(InputError, match=r"given.onnx: output 'x' is an input too"):
        export(save(model("(float[2] x) => (float[2] y, float[2] x) { y = Relu(x) }"), tmp_path / "given.onnx"))


class TestOperators:
    @pytest.mark.parametrize(
        ("domain", "op", "known"),
        [
            ("", "Relu", True),
            ("com.microsoft", "FusedMatMul", True),
            ("trt.plugins", "EfficientNMS_TRT", True),
            ("", "Swizzle", False),
            ("my.domain", "Relu", False),
        ],
    )
    def test_unknown_ones_are_named_with_their_node(self, export, tmp_path, domain, op, known):
        proto = model("(float[2] x) => (float[2] y) { y = Relu(x) }")
        proto.graph.node[0].op_type, proto.graph.node[0].domain = op, domain
        if domain:
            proto.opset_import.append(helper.make_opsetid(domain, 1))
        path = save(proto, tmp_path / "given.onnx")
        if known:
            assert export(path)[0].graph.node[0].op_type == op
            return
        full = f"{domain}::{op}" if domain else op
        with pytest.raises(InputError, match=rf"given\.onnx: node 'relu_0' uses the unknown operator {full} \(opset"):
            export(path)

    def test_the_long_name_of_onnx_itself(self, export, tmp_path):
        proto = conv_net()
        proto.opset_import[0].domain = "ai.onnx"
        copied, record, _ = export(save(proto, tmp_path / "given.onnx"))
        assert record.opset == 20
        assert [(entry.domain, entry.version) for entry in copied.opset_import] == [("", 20)]

    def test_inside_bodies_too(self, export, tmp_path):
        proto = model(
            "(float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = t () => (float[2] a) { a = Odd(x) }, "
            "else_branch = e () => (float[2] b) { b = Relu(x) }> }"
        )
        with pytest.raises(InputError, match="node 'a' uses the unknown operator Odd"):
            export(save(proto, tmp_path / "given.onnx"))

    def test_an_operator_newer_than_the_models_opset(self, export, tmp_path):
        proto = model("(float[2] x) => (float[2] y) { y = Gelu(x) }", opset=19)
        with pytest.raises(InputError, match=r"unknown operator Gelu \(opset 19\)"):
            export(save(proto, tmp_path / "given.onnx"))

    def test_the_models_own_functions(self, export, tmp_path):
        double = helper.make_function(
            "own", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
        )
        proto = model("(float[2] x) => (float[2] y) { y = Double(x) }")
        proto.graph.node[0].domain = "own"
        proto.functions.append(double)
        proto.opset_import.append(helper.make_opsetid("own", 1))
        copied, _, _ = export(save(proto, tmp_path / "given.onnx"))
        assert run(copied, {"x": np.array([1, 2], np.float32)})["y"].tolist() == [2, 4]


class TestInvalid:
    @pytest.mark.parametrize(
        ("graph", "words"),
        [
            ("(float[2] x) => (float[2] y) { a = Relu(x) a = Neg(x) y = Add(a, a) }", "'a'"),
            ("(float[2] x) => (float[2] y) { y = Add(x, nowhere) }", "nowhere"),
            ("(float[2] x) => (float[2] y) { y = Concat(x, x) }", "axis"),
        ],
    )
    def test_what_the_checker_finds_is_passed_on(self, export, tmp_path, graph, words):
        with pytest.raises(InputError, match=rf"given\.onnx: not a valid ONNX model: .*{words}") as caught:
            export(save(model(graph), tmp_path / "given.onnx"))
        assert "\n" not in caught.value.message

    def test_nothing_is_left_behind(self, export, tmp_path, workdir):
        proto = model("(float[2] x) => (float[2] y) { y = Concat(x, x) }")
        with pytest.raises(InputError):
            export(save(proto, tmp_path / "given.onnx"))
        assert list(workdir.iterdir()) == []

    def test_cut_short_anywhere(self, export, tmp_path):
        whole = conv_net().SerializeToString()
        path = tmp_path / "given.onnx"
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"given\.onnx"):
                export(path)


@pytest.mark.parametrize("zero", [np.int8(0), np.uint8(3)])
@pytest.mark.parametrize("requantize", [False, True])
def test_quantized_operators_of_onnxruntimes_own(export, tmp_path, zero, requantize):
    scale = np.float32(0.1)
    proto = model(
        "(float[2] x) => (float[2] y) { q = QuantizeLinear(x, s, z) r = Relu(q) y = DequantizeLinear(r, s, z) }",
        s=scale, z=np.array(zero),
    )  # fmt: skip
    add = proto.graph.node[1]
    add.op_type, add.domain = "QLinearAdd", "com.microsoft"
    add.input[:] = ["q", "s", "z", "q", "s", "z", "s", "z"]
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = save(proto, tmp_path / "given.onnx")
    if zero and not requantize:
        with pytest.raises(StageError, match=r"QLinearAdd") as raised:
            export(path, requantize=requantize)
        assert "--requantize" in raised.value.remedy
        return
    copied, _, _ = export(path, requantize=requantize)
    assert {node.domain for node in copied.graph.node} == {""}
    assert ("QuantizeLinear" in {node.op_type for node in copied.graph.node}) is not requantize
    feed = {"x": np.array([0.5, 1.2], np.float32)}
    np.testing.assert_allclose(run(copied, feed)["y"], 2 * feed["x"], atol=1e-6)


def test_what_cannot_be_requantized_is_refused_by_name(export, tmp_path):
    proto = model("(float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "MatMulNBits", "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(StageError, match="MatMulNBits") as raised:
        export(save(proto, tmp_path / "given.onnx"))
    assert "--requantize" not in raised.value.remedy


def test_plug_ins_in_onnxs_own_domain(export, tmp_path):
    proto = model("(float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.graph.node[0].op_type = "EfficientNMS_TRT"
    copied, record, _ = export(save(proto, tmp_path / "given.onnx"))
    assert [(node.domain, node.op_type) for node in copied.graph.node] == [("trt.plugins", "EfficientNMS_TRT")]
    assert any("EfficientNMS_TRT" in note for note in record.notes)


def test_what_onnxruntimes_optimizer_writes_into_onnxs_own_domain(export, tmp_path):
    proto = model("(float[2,8] x) => (float[2,8] y) { y = Relu(x, s) }", s=normal(8, seed=1))
    node = proto.graph.node[0]
    node.op_type = "SimplifiedLayerNormalization"
    node.attribute.extend([helper.make_attribute("axis", -1), helper.make_attribute("epsilon", 1e-3)])
    feed = {"x": normal(2, 8)}
    wanted = run(proto, feed)["y"]
    copied, _, _ = export(save(proto, tmp_path / "given.onnx"))
    assert {each.domain for each in copied.graph.node} == {""}
    np.testing.assert_allclose(run(copied, feed)["y"], wanted, rtol=1e-5, atol=1e-6)


def test_plug_ins_that_nothing_reads_are_left_out(export, tmp_path):
    proto = model("(float[2] x) => (float[2] y) { y = Relu(x) d = Odd(x) e = Odd(d) }")
    for node in proto.graph.node[1:]:
        node.domain = "vision"
    proto.opset_import.append(helper.make_opsetid("vision", 1))
    assert [node.op_type for node in export(save(proto, tmp_path / "given.onnx"))[0].graph.node] == ["Relu"]


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        (([2, 4], [0, 4]), ((2, 4), ("p_size_0", 4))),
        (([0, 4], [0, 4]), ((None, 4), (None, 4))),  # a batch
        (([0, 4], ["n", 0]), ((None, 4), ("n", "p_size_1"))),
        (([2, 4], [-1, 4]), ((2, 4), (None, 4))),
        (([2, 4], []), ((2, 4), ())),
    ],
)
def test_a_size_of_0_is_named_unless_it_is_a_batch(export, tmp_path, sizes, found):
    inputs = [helper.make_tensor_value_info(n, 1, shape) for n, shape in zip("xp", sizes, strict=True)]
    outputs = [helper.make_tensor_value_info(n, 1, None) for n in "yz"]
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Neg", ["p"], ["z"])]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    _, record, _ = export(save(proto, tmp_path / "net.onnx"))
    assert tuple(spec.shape for spec in record.contract.inputs) == found
    assert any("size of 0" in note for note in record.notes) == ("_size_" in str(found))
