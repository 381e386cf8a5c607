"""Model repositories of packages: what their configurations say, and that Triton takes every one of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from delivery.repositories import batched, changed, judged, laid_out, packaged, tritonserver

from trtpipe.config.audio_transform import AudioTransform
from trtpipe.config.image_transform import ImageTransform
from trtpipe.config.triton import TritonSettings
from trtpipe.delivery.record import Encryption, FileDigest, Postprocessing, Preprocessing, Range, Tensor
from trtpipe.delivery.triton import repository
from trtpipe.errors import InputError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

FIXED = {
    "inputs": (Tensor("x", "float32", (1, 3, 8, 8)),),
    "outputs": (Tensor("y", "float32", (1, 2)),),
    "profiles": (),
}
IMAGES = (Preprocessing("x", ImageTransform(resize=(8, 8))),)
SCORES = (Postprocessing("y", classes=True),)
WIDTHS = {"x": Range((1, 3, 8, 8), (2, 3, 8, 16), (8, 3, 8, 32))}
NUMERIC = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32",
           "float64")  # fmt: skip

#: Every kind of package, and settings: name -> (package, settings).
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dynamic": ({}, {}),
    "fixed": (FIXED, {}),
    "fixed_batch_of_4": ({**FIXED, "inputs": (Tensor("x", "float32", (4, 3, 8, 8)),),
                          "outputs": (Tensor("y", "float32", (4, 2)),)}, {}),
    "several_profiles": ({"profiles": (batched(1, 1, 1), batched(1, 4, 8), batched(8, 16, 32))}, {}),
    "several_targets": ({"targets": ("sm86", "sm89", "sm120")}, {}),
    "free_width": ({"inputs": (Tensor("x", "float32", ("N", 3, 8, "w")),), "profiles": (WIDTHS,)}, {}),
    "batch_0_asked": ({}, {"max_batch_size": 0}),
    "batch_1": ({"profiles": (batched(1, 1, 1),)}, {}),
    "smaller_batch": ({}, {"max_batch_size": 3}),
    "batches_from_4": ({"profiles": (batched(4, 8, 16),)}, {}),
    "no_batching": ({}, {"dynamic_batching": False}),
    "delay": ({}, {"max_queue_delay": "500us", "preferred_batch_sizes": [4, 8], "instances": 2, "gpus": [0]}),
    "another_batch_in_the_output": ({"outputs": (Tensor("y", "float32", ("M", 2)),)}, {}),
    "unknown_dim_in_the_output": ({"outputs": (Tensor("y", "float32", (None, 2)),)}, {}),
    "vectors": ({"inputs": (Tensor("x", "float32", ("N",)),), "outputs": (Tensor("y", "float32", ("N",)),),
                 "profiles": ({"x": Range((1,), (2,), (4,))},)}, {}),
    "shape_tensor": ({"inputs": (Tensor("x", "float32", (1, 4)), Tensor("n", "int64", (2,))),
                      "outputs": (Tensor("y", "float32", ("a", "b")),),
                      "profiles": ({"n": Range((1, 1), (2, 2), (4, 4))},)}, {}),
    "labels": ({"postprocessing": SCORES}, {}),
    "odd_labels": ({"postprocessing": SCORES, "classes": ("schön \"quoted\"", "日本\\語")}, {}),
    "odd_names": ({"inputs": (Tensor('in "x"\n\\é', "float32", ("N", 3, 8, 8)),),
                   "profiles": (batched(name='in "x"\n\\é'),)}, {}),
    "no_reference": ({"feeds": ()}, {}),
    "no_warmup": ({}, {"warmup": False}),
    "version_7": ({}, {"version": 7, "name": "Net-7.v2"}),
    "images": ({"preprocessing": IMAGES}, {"preprocessing": True}),
    "images_of_fixed": ({**FIXED, "preprocessing": IMAGES}, {"preprocessing": True}),
    "images_of_batch_4": (
        {**FIXED, "inputs": (Tensor("x", "float32", (4, 3, 8, 8)),), "preprocessing": IMAGES}, {"preprocessing": True},
    ),
    "sounds": ({"inputs": (Tensor("x", "float32", ("N", 80, None)),), "profiles": (), "targets": (),
                "preprocessing": (Preprocessing("x", audio=AudioTransform()),)},
               {"preprocessing": True, "backend": "onnxruntime"}),
    "images_and_labels": ({"preprocessing": IMAGES, "postprocessing": SCORES,
                           "inputs": (Tensor("x", "float32", ("N", 3, 8, 8)), Tensor("k", "int32", ("N", 1))),
                           "profiles": ({**batched(), "k": Range((1, 1), (2, 1), (8, 1))},)}, {"preprocessing": True}),
    "onnxruntime": ({}, {"backend": "onnxruntime"}),
    "onnxruntime_fixed": (FIXED, {"backend": "onnxruntime", "instances": 2}),
    "onnxruntime_without_plans": ({"targets": ()}, {"backend": "onnxruntime"}),
    "onnxruntime_on_a_gpu": ({}, {"backend": "onnxruntime", "gpus": [0, 1]}),
    "texts": ({"inputs": (Tensor("x", "object", ("N", 1)),), "profiles": (), "targets": ()},
              {"backend": "onnxruntime"}),
    **{
        f"of_{name}": ({"inputs": (Tensor("x", name, ("N", 2)),), "outputs": (Tensor("y", name, ("N", 2)),),
                        "profiles": ({"x": Range((1, 2), (2, 2), (8, 2))},)}, {})
        for name in NUMERIC
    },
}  # fmt: skip


def made(kind: str, folder: Path) -> Any:
    package, settings = KINDS[kind]
    folder.mkdir()
    work = folder / "work"
    work.mkdir()
    given = {"name": kind, **settings}
    return repository(packaged(folder, **package), TritonSettings(**given), work)


def config(found: Any, name: str = "") -> str:
    return str(found.files[f"{name or found.name}/config.pbtxt"].read_text())


@pytest.mark.triton
@pytest.mark.skipif(tritonserver() is None, reason="pip install nvidia-pytriton")
def test_a_real_server_takes_every_configuration(tmp_path: Path) -> None:
    wanted = set()
    for kind in KINDS:
        found = made(kind, tmp_path / kind)
        laid_out(found.files, tmp_path / "repository")
        wanted |= set(found.models)
    taken, refused = judged(tmp_path / "repository")
    assert refused == {}
    ensembles = {name for name in wanted if name.endswith(("_images", "_sounds"))}
    assert len(wanted) > len(KINDS) > 35
    assert taken == wanted - ensembles, "an ensemble is not loaded before its models are"


@pytest.mark.triton
@pytest.mark.parametrize("kind", KINDS)
def test_the_client_s_own_parser_reads_every_configuration(kind: str, tmp_path: Path) -> None:
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="pip install 'tritonclient[grpc]'")
    from google.protobuf import text_format

    found = made(kind, tmp_path / kind)
    for name in found.models:
        read = text_format.Parse(config(found, name), schema.ModelConfig())
        assert read.name == name
    read = text_format.Parse(config(found, found.models[0]), schema.ModelConfig())
    package = packaged(tmp_path, **KINDS[kind][0]).model
    assert [each.name for each in read.input] == [each.name for each in package.inputs]
    names = {path.removeprefix(f"{found.name}/") for path in found.files}
    for warmup in read.model_warmup:
        assert {f"warmup/{each.input_data_file}" for each in warmup.inputs.values()} <= names


@pytest.mark.parametrize(("element", "wanted"), [("FLOAT8E4M3FN", "level: -1"), ("BFLOAT16", "level: 1"), ("INT8", "")])
def test_onnxruntime_optimizes_no_further_than_is_correct(element: str, wanted: str, tmp_path: Path) -> None:
    """Its own default takes float8 Q/DQ pairs for int8 ones, and gives other results without a word."""
    found, work = packaged(tmp_path), tmp_path / "work"
    work.mkdir()
    kind = onnx.TensorProto.DataType.Value(element)
    dequantize = onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["y"])
    scale = onnx.numpy_helper.from_array(np.float32(1), "s")
    graph = onnx.helper.make_graph([dequantize], "g", [], [], [onnx.helper.make_tensor("q", kind, [1], [1.0]), scale])
    (tmp_path / "lowered.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    text = config(repository(found, TritonSettings(backend="onnxruntime"), work))
    assert ("optimization { graph { %s } }" % wanted in text) == bool(wanted)  # noqa: UP031
    assert ("optimization" in text) == bool(wanted)


def test_a_batch_axis_is_what_all_inputs_and_outputs_share(tmp_path: Path) -> None:
    found = config(made("dynamic", tmp_path / "a"))
    assert "max_batch_size: 8" in found
    assert "dims: [3, 8, 8]" in found
    assert "dynamic_batching {" in found
    for kind in ("fixed", "batches_from_4", "another_batch_in_the_output", "unknown_dim_in_the_output", "shape_tensor"):
        found = config(made(kind, tmp_path / kind))
        assert "max_batch_size: 0" in found, kind
        assert "dynamic_batching" not in found, kind


def test_several_profiles_are_all_loaded_and_say_which_batches_come_first(tmp_path: Path) -> None:
    found = config(made("several_profiles", tmp_path / "a"))
    assert 'profile: ["0", "1", "2"]' in found
    assert "preferred_batch_size: [4, 16]" in found
    assert "max_batch_size: 32" in found


def test_plans_for_several_gpus_are_told_apart_by_capability(tmp_path: Path) -> None:
    found = made("several_targets", tmp_path / "a")
    text = config(found)
    assert 'default_model_filename: "model.plan"' in text
    assert 'cc_model_filenames { key: "12.0" value: "sm120.plan" }' in text
    assert 'cc_model_filenames { key: "8.6" value: "model.plan" }' in text
    assert f"{found.name}/1/sm89.plan" in found.files


def test_one_value_a_sample_is_reshaped(tmp_path: Path) -> None:
    assert config(made("vectors", tmp_path / "a")).count("reshape { shape: [] }") == 2


def test_warm_up_is_one_request_for_each_reference_input_and_one_of_the_largest_batch(tmp_path: Path) -> None:
    rows = [{"x": np.full((1, 3, 8, 8), number, np.float32)} for number in range(3)]
    found = repository(packaged(tmp_path, feeds=rows), TritonSettings(), tmp_path)
    text = config(found)
    assert text.count("batch_size: 1\n") == 3
    assert text.count("batch_size: 8\n") == 2  # the model's, and the last request's
    value = np.frombuffer(found.files["net/warmup/2-0"].read_bytes(), "<f4")
    np.testing.assert_array_equal(value, np.full(3 * 8 * 8, 2, np.float32))


def test_labels_are_one_a_line(tmp_path: Path) -> None:
    found = made("odd_labels", tmp_path / "a")
    assert found.files["odd_labels/labels.txt"].read_text("utf-8") == 'schön "quoted"\n日本\\語\n'
    assert 'label_filename: "labels.txt"' in config(found)


def test_images_go_through_a_python_model_and_an_ensemble(tmp_path: Path) -> None:
    found = made("images", tmp_path / "a")
    assert found.models == ("images", "images_preprocess", "images_images")
    text = config(found, "images_images")
    assert 'platform: "ensemble"' in text
    assert text.index('model_name: "images_preprocess"') < text.index('model_name: "images"')
    assert "images_preprocess/1/transform.json" in found.files


def test_sounds_go_the_same_way(tmp_path: Path) -> None:
    found = made("sounds", tmp_path / "a")
    assert found.models == ("sounds", "sounds_preprocess", "sounds_sounds")
    assert 'input_map { key: "SOUND" value: "SOUND" }' in " ".join(config(found, "sounds_sounds").split())
    assert not any("pillow" in note for note in found.notes)


def test_a_fixed_batch_takes_as_many_images(tmp_path: Path) -> None:
    found = made("images_of_batch_4", tmp_path / "a")
    for name in found.models[1:]:
        text = config(found, name)
        assert text.index("TYPE_STRING") < text.index("dims: [4]")


def test_notes_say_what_the_server_needs_and_what_was_not_run(tmp_path: Path) -> None:
    notes = " ".join(made("no_reference", tmp_path / "a").notes)
    assert "TensorRT 10.3.0" in notes
    assert "no warm-up" in notes
    assert "not run" in notes


@pytest.mark.parametrize(
    ("package", "settings", "words"),
    [
        ({"flavor": "tensorrt-rtx"}, {}, ("sm89.plan", "tensorrt-rtx")),
        ({"flavor": "null"}, {}, ("sm89.plan", "null")),
        ({"targets": ()}, {}, ("no plan",)),
        ({"graph": None}, {"backend": "onnxruntime"}, ("no lowered graph",)),
        ({}, {"name": "a/b"}, ("'a/b'", "name")),
        ({"name": "my net"}, {}, ("'my net'", "name")),
        ({"name": ".."}, {}, ("'..'", "name")),
        ({"name": ""}, {}, ("name",)),
        ({}, {"max_batch_size": 9}, ("max_batch_size 9", "8")),
        (FIXED, {"max_batch_size": 2}, ("max_batch_size 2",)),
        (FIXED, {"preferred_batch_sizes": [2]}, ("max_batch_size",)),
        ({}, {"preferred_batch_sizes": [16]}, ("16", "preferred_batch_size")),
        ({"outputs": (Tensor("y", "complex64", ("N", 2)),)}, {}, ("y", "complex64")),
        ({"outputs": (Tensor("y", "float8_e4m3fn", ("N", 2)),)}, {}, ("y", "float8_e4m3fn")),
        ({"outputs": (Tensor("y", "float32", None),)}, {}, ("y", "rank")),
        ({**FIXED, "outputs": (Tensor("y", "float32", ()),)}, {}, ("y", "single value")),
        ({"postprocessing": SCORES, "classes": ("a", "b", "c")}, {}, ("3 labels", "2 values")),
        ({"postprocessing": SCORES, "classes": ("a", "b\nc")}, {}, ("b\\nc", "one a line")),
        ({}, {"preprocessing": True}, ("preprocessing",)),
    ],
)
def test_what_triton_cannot_serve_is_refused_by_name(
    package: dict[str, Any], settings: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        repository(packaged(tmp_path, **package), TritonSettings(**settings), tmp_path)
    for word in words:
        assert word in caught.value.message
    assert caught.value.remedy


def test_plans_of_two_versions_are_refused(tmp_path: Path) -> None:
    found = packaged(tmp_path, targets=("sm86", "sm89"))
    plans = (found.model.plans[0], replace(found.model.plans[1], version="11.4.0.106"))
    with pytest.raises(InputError, match="versions"):
        repository(changed(found, plans=plans), TritonSettings(), tmp_path)


def test_an_encrypted_plan_is_refused(tmp_path: Path) -> None:
    found = packaged(tmp_path)
    plan = found.model.plans[0]
    sealed = Encryption(("age1x",), (FileDigest(plan.file, "0" * 64, 1),))
    with pytest.raises(InputError, match="encrypted"):
        repository(changed(found, encryption=sealed), TritonSettings(), tmp_path)


@pytest.mark.parametrize(
    "text", ["nmae = 'x'\n", "instances = 0\n", "max_queue_delay = 5\n", "version = 0\n", "backend = 'pytorch'\n"]
)
def test_settings_with_a_mistake_are_refused_by_field(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(RecipeError, match=text.partition(" ")[0]):
        TritonSettings.load(tmp_path / "t.toml")
