from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import (
    CASES,
    branches,
    conv_net,
    embedding,
    feed_for,
    listed_initializers,
    model,
    normal,
    run,
    save,
    weights_of,
)
from onnx import TensorProto, helper

from trtpipe.errors import InputError
from trtpipe.preflight import onnx_io
from trtpipe.preflight.onnx_io import (
    contract_of,
    contract_of_proto,
    dtype_name,
    external_refs,
    load_model,
    named_dimension,
    read_contract,
    read_proto,
    save_model,
)

PRODUCT = "(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }"


def product(**options) -> onnx.ModelProto:
    return model(PRODUCT, w=normal(64, 64), **options)


@pytest.fixture
def external(tmp_path):
    """A model whose weights lie beside it in ``w.bin``."""
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(product(), folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return folder / "m.onnx"


def edit(path: Path, **entries: str | None) -> Path:
    """Change what the model says of its external data."""
    proto = onnx.load(path, load_external_data=False)
    data = proto.graph.initializer[0].external_data
    for key, value in entries.items():
        for index in [i for i, entry in enumerate(data) if entry.key == key]:
            del data[index]
        if value is not None:
            data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    return path


class TestNoModel:
    @pytest.mark.parametrize("read", [read_proto, load_model, read_contract])
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "no such file"),
            (b"", "empty file"),
            (b"import torch\n", "a text file, not an ONNX model"),
            (b"<html><body>404</body></html>", "a text file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
            (b"\x89PNG\r\n\x1a\n" + bytes(64), "not an ONNX model"),
            (b"PK\x03\x04" + bytes(64), "not an ONNX model"),
            (bytes(64), "not an ONNX model"),
            (b"\x08\x0a", "holds no graph"),
        ],
    )
    def test_what_it_is_instead(self, tmp_path, read, content, words):
        path = tmp_path / "m.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            read(path)
        assert caught.value.message.startswith(str(path))
        assert caught.value.remedy

    def test_a_folder(self, tmp_path):
        with pytest.raises(InputError, match="a folder, not a model file"):
            read_proto(tmp_path)

    def test_below_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be read"):
            read_proto(tmp_path / "file" / "m.onnx")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_no_permission(self, tmp_path):
        path = save(conv_net(), tmp_path / "m.onnx")
        path.chmod(0)
        with pytest.raises(InputError, match="Permission denied"):
            read_proto(path)

    @pytest.mark.parametrize("name", ["conv_net", "branches"])
    def test_cut_short_at_any_length(self, tmp_path, name):
        whole = CASES[name]().SerializeToString()
        path = tmp_path / "m.onnx"
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError):
                read_proto(path)
        path.write_bytes(whole)
        assert read_proto(path).graph.name == "g"

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5))
    def test_damaged_in_any_place_it_is_read_or_refused(self, tmp_path, changes):
        data = bytearray(embedding().SerializeToString())
        for place, value in changes:
            data[place % len(data)] = value
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        refusals = []
        for read in (read_contract, load_model):
            try:
                read(path)
            except InputError as error:
                refusals.append(error.message)
        assert all("\n" not in refusal for refusal in refusals)


class TestExternalData:
    def test_it_is_found_where_the_model_says(self, external):
        [ref] = external_refs(read_proto(external), external)
        assert (ref.tensor, ref.path, ref.offset, ref.length) == ("w", external.parent / "w.bin", 0, 64 * 64 * 4)

    def test_in_a_folder_below(self, external):
        (external.parent / "sub").mkdir()
        (external.parent / "w.bin").rename(external.parent / "sub" / "w.bin")
        edit(external, location="sub/w.bin")
        np.testing.assert_array_equal(load_model(external).graph.initializers["w"].const_value.numpy(), normal(64, 64))

    @pytest.mark.parametrize("working", ["elsewhere", "beside"])
    def test_relative_to_the_model_not_to_the_working_folder(self, external, tmp_path, monkeypatch, working):
        monkeypatch.chdir(tmp_path if working == "elsewhere" else external.parent)
        path = Path("model/m.onnx") if working == "elsewhere" else Path("m.onnx")
        np.testing.assert_array_equal(load_model(path).graph.initializers["w"].const_value.numpy(), normal(64, 64))

    def test_missing(self, external):
        (external.parent / "w.bin").unlink()
        with pytest.raises(InputError, match=r"external data of tensor 'w' is missing: .*w\.bin"):
            read_proto(external)

    @pytest.mark.parametrize("length", ["16384", None])
    def test_short_even_if_the_model_does_not_say_how_long_it_is(self, external, length):
        edit(external, length=length)
        with (external.parent / "w.bin").open("r+b") as data:
            data.truncate(16000)
        with pytest.raises(InputError, match=r"is short: w\.bin has 16000 bytes, 16384 are needed"):
            read_proto(external)

    @pytest.mark.parametrize(
        ("entries", "words"),
        [
            ({"offset": "8"}, "16392 are needed"),
            ({"offset": "-8"}, "begins at -8"),
            ({"offset": "many"}, "many"),
            ({"length": "99999"}, "99999 are needed"),
            ({"location": ""}, "outside the model's folder"),
            ({"location": "."}, "outside the model's folder"),
            ({"location": "../w.bin"}, "outside the model's folder"),
            ({"location": "/etc/passwd"}, "outside the model's folder"),
            ({"location": "sub/../../w.bin"}, "outside the model's folder"),
            ({"location": "sub"}, "is not a plain file"),
        ],
    )
    def test_what_the_model_must_not_say(self, external, entries, words):
        (external.parent / "sub").mkdir()
        (external.parent.parent / "w.bin").write_bytes(bytes(64 * 64 * 4))
        with pytest.raises(InputError, match=words):
            read_proto(edit(external, **entries))

    def test_links(self, external, tmp_path):
        data = external.parent / "w.bin"
        outside = data.rename(tmp_path / "outside.bin")
        data.symlink_to(outside)
        with pytest.raises(InputError, match="outside the model's folder"):
            read_proto(external)
        data.unlink()
        data.hardlink_to(outside)
        with pytest.raises(InputError, match="not a plain file of its own"):
            read_proto(external)
        data.unlink()
        os.mkfifo(data)
        with pytest.raises(InputError, match="not a plain file of its own"):
            read_proto(external)

    def test_inside_bodies_and_attributes_it_is_checked_too(self, external):
        def outside(tensor):
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../w.bin")

        body = branches()
        constant = helper.make_node(
            "Constant", [], ["k"], value=helper.make_tensor("deep", TensorProto.FLOAT, [1], [1.0])
        )
        body.graph.node[1].attribute[0].g.node.insert(0, constant)
        outside(body.graph.node[1].attribute[0].g.node[0].attribute[0].t)
        with pytest.raises(InputError, match="tensor 'deep' lies outside"):
            read_proto(save(body, external.parent / "body.onnx"))

    def test_constants_in_nodes_are_read_with_the_model(self, external):
        proto = onnx.load(external, load_external_data=False)
        tensor = proto.graph.initializer.pop()
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        external.write_bytes(proto.SerializeToString())
        loaded = load_model(external)
        (external.parent / "w.bin").unlink()
        found = next(iter(loaded.graph)).attributes["value"].as_tensor().numpy()
        np.testing.assert_array_equal(found, normal(64, 64))


class TestSave:
    @pytest.mark.parametrize("name", CASES)
    def test_round_trip(self, tmp_path, name):
        proto = CASES[name]()
        assert save_model(load_model(save(proto, tmp_path / "a.onnx")), tmp_path / "b.onnx") == ("b.onnx",)
        found = onnx.load(tmp_path / "b.onnx")
        feed = feed_for(proto)
        for output, values in run(proto, feed).items():
            np.testing.assert_array_equal(run(found, feed)[output], values)
        for weight, values in weights_of(proto).items():
            np.testing.assert_array_equal(weights_of(found)[weight], values)

    @pytest.mark.parametrize(
        "values",
        [
            np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
            np.array([1.5, -2.0], ml_dtypes.bfloat16),
            np.array([448, 2**-9], ml_dtypes.float8_e4m3fn),
            np.array([2**62, -(2**62)], np.int64),
            np.array([True, False]),
            np.array([7, -8, 3], ml_dtypes.int4),
        ],
    )
    def test_weights_of_every_kind_bit_by_bit(self, tmp_path, values):
        proto = model("(float[1] x) => (float[1] y) { y = Relu(x) }", w=values)
        save_model(load_model(save(proto, tmp_path / "a.onnx")), tmp_path / "b.onnx")
        found = weights_of(onnx.load(tmp_path / "b.onnx"))["w"]
        assert found.dtype == values.dtype
        assert found.tobytes() == values.tobytes()

    def test_large_models_put_their_weights_beside_them(self, tmp_path, monkeypatch):
        monkeypatch.setattr(onnx_io, "INLINE_LIMIT", 64 * 64 * 4)
        loaded = load_model(save(product(), tmp_path / "a.onnx"))
        assert save_model(loaded, tmp_path / "fits.onnx") == ("fits.onnx",)
        monkeypatch.setattr(onnx_io, "INLINE_LIMIT", 64 * 64 * 4 - 1)
        assert save_model(loaded, tmp_path / "big.onnx") == (
            "big.onnx", "big.onnx.data"
        )  # fmt: skip
        assert (tmp_path / "big.onnx").stat().st_size < 1000
        np.testing.assert_array_equal(weights_of(onnx.load(tmp_path / "big.onnx"))["w"], normal(64, 64))
        [ref] = external_refs(read_proto(tmp_path / "big.onnx"), tmp_path / "big.onnx")
        assert ref.path == tmp_path / "big.onnx.data"

    @pytest.mark.parametrize("limit", [0, 10**9])
    def test_external_data_may_come_in_and_go_out_either_way(self, external, tmp_path, monkeypatch, limit):
        monkeypatch.setattr(onnx_io, "INLINE_LIMIT", limit)
        out = tmp_path / "out"
        out.mkdir()
        names = save_model(load_model(external), out / "m.onnx")
        assert names == (("m.onnx", "m.onnx.data") if limit == 0 else ("m.onnx",))
        assert {path.name for path in out.iterdir()} == set(names)
        (external.parent / "w.bin").unlink()
        np.testing.assert_array_equal(weights_of(onnx.load(out / "m.onnx"))["w"], normal(64, 64))

    @pytest.mark.parametrize("limit", [0, 10**9])
    def test_equal_models_give_equal_bytes(self, tmp_path, monkeypatch, limit):
        monkeypatch.setattr(onnx_io, "INLINE_LIMIT", limit)
        contents = []
        for place in ("a", "b"):
            folder = tmp_path / place
            names = save_model(load_model(save(product(), folder / "given.onnx")), folder / "m.onnx")
            contents.append([(folder / name).read_bytes() for name in names])
        assert contents[0] == contents[1]
        assert str(tmp_path).encode() not in contents[0][0]


class TestContract:
    @pytest.mark.parametrize("name", CASES)
    def test_both_ways_of_reading_it_agree(self, tmp_path, name):
        proto = CASES[name]()
        path = save(proto, tmp_path / "m.onnx")
        assert read_contract(path) == contract_of_proto(proto) == contract_of(load_model(path))

    def test_names_types_and_dimensions(self, tmp_path):
        proto = model("(int64[N,S] ids, bool flag, float16[2,?] h) => (float[N,3] y, double z) "
                      "{ y = Cast<to=1>(h) z = Cast<to=11>(flag) }")  # fmt: skip
        contract = contract_of_proto(proto)
        assert [(spec.name, spec.dtype, spec.shape) for spec in contract.inputs] == [
            ("ids", "int64", ("N", "S")),
            ("flag", "bool", ()),
            ("h", "float16", (2, None)),
        ]
        assert [(spec.name, spec.dtype, spec.shape) for spec in contract.outputs] == [
            ("y", "float32", ("N", 3)),
            ("z", "float64", ()),
        ]

    def test_initializers_are_no_inputs(self):
        assert [spec.name for spec in contract_of_proto(listed_initializers()).inputs] == ["x"]
        assert [spec.name for spec in contract_of(ir.serde.deserialize_model(listed_initializers())).inputs] == ["x"]

    def test_an_unknown_rank(self):
        proto = conv_net()
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        assert contract_of_proto(proto).outputs[0].shape is None
        assert contract_of(ir.serde.deserialize_model(proto)).outputs[0].shape is None

    @pytest.mark.parametrize(
        ("dim", "named"),
        [(3, 3), (0, None), (-1, None), ("N", "N"), ("", None), ("?", None), ("-1", None), ("None", None), (None, None),
         ("unk__12", "unk__12"), ("2*N", "2*N")],
    )  # fmt: skip
    def test_dimensions(self, dim, named):
        assert named_dimension(dim) == named
        proto = conv_net()
        axis = proto.graph.input[0].type.tensor_type.shape.dim[0]
        axis.Clear()
        if isinstance(dim, int):
            axis.dim_value = dim
        elif dim is not None:
            axis.dim_param = dim
        assert contract_of_proto(proto).inputs[0].shape == (named, 3, 8, 8)
        assert contract_of(ir.serde.deserialize_model(proto)).inputs[0].shape == (named, 3, 8, 8)

    @pytest.mark.parametrize(
        ("code", "name"),
        [
            (TensorProto.FLOAT, "float32"),
            (TensorProto.DOUBLE, "float64"),
            (TensorProto.FLOAT16, "float16"),
            (TensorProto.BFLOAT16, "bfloat16"),
            (TensorProto.FLOAT8E4M3FN, "float8_e4m3fn"),
            (TensorProto.INT64, "int64"),
            (TensorProto.UINT8, "uint8"),
            (TensorProto.BOOL, "bool"),
            (TensorProto.STRING, "str"),
            (TensorProto.UNDEFINED, "unknown"),
        ],
    )
    def test_names_of_types(self, code, name):
        assert dtype_name(code) == name


def test_the_long_name_of_onnxs_own_domain(tmp_path):
    proto = conv_net()
    proto.opset_import[0].domain = "ai.onnx"
    assert load_model(save(proto, tmp_path / "m.onnx")).graph.opset_imports == {"": 20}


@pytest.mark.parametrize("name", CASES)
def test_the_file_is_what_onnx_ir_would_write(tmp_path: Path, name: str) -> None:
    loaded = load_model(save(CASES[name](), tmp_path / "given.onnx"))
    weights = [value.const_value for value in loaded.graph.initializers.values()]
    save_model(loaded, tmp_path / "ours.onnx")
    ir.save(loaded, tmp_path / "theirs.onnx")
    assert (tmp_path / "ours.onnx").read_bytes() == (tmp_path / "theirs.onnx").read_bytes()
    assert [value.const_value for value in loaded.graph.initializers.values()] == weights


def test_graphs_share_weights_that_lie_beside_them(tmp_path: Path) -> None:
    proto, feed = model(PRODUCT, w=normal(64, 64)), normal(2, 64)
    (tmp_path / "given").mkdir()
    shared = onnx_io.with_shared_weights(save(proto, tmp_path / "given" / "m.onnx"), tmp_path)
    content = (tmp_path / "shared.data").read_bytes()
    assert len(content) >= 64 * 64 * 4
    loaded = load_model(shared)
    assert onnx_io.save_sharing(loaded, tmp_path / "again.onnx") == ("again.onnx",)
    assert (tmp_path / "again.onnx").stat().st_size < 4096
    assert (tmp_path / "shared.data").read_bytes() == content
    elsewhere = tmp_path / "given" / "whole.onnx"  # no file of weights lies beside it
    onnx_io.save_sharing(loaded, elsewhere)
    wanted = run(proto, {"x": feed})["y"]
    for path in (tmp_path / "again.onnx", elsewhere):
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"x": feed})[0], wanted, rtol=1e-5, atol=1e-5)
