"""The preprocessing of images as part of the graph, from PNG files to engines of TensorRT-RTX that take bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from models import conv_net, model, normal, run, save

import trtpipe
from trtpipe.accuracy.reports import ParityReport
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.preprocessing import METADATA, FoldedPreprocessing
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError, TrtpipeError
from trtpipe.exporter.image_preprocessing import fold
from trtpipe.exporter.request import FoldRequest
from trtpipe.preflight.onnx_io import contract_of_proto, read_contract
from trtpipe.report.stage_records import ExportRecord

if TYPE_CHECKING:
    from trtpipe.api.results import BuildResult

RGB = FoldedPreprocessing(input="", layout="CHW", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def as_floats(pixels: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """[N, H, W, C] bytes as normalized float32[N, C, H, W], as training pipelines do it."""
    scaled = pixels.astype(np.float32) / 255
    return ((scaled - np.float32(mean)) / np.float32(std)).transpose(0, 3, 1, 2).astype(np.float32)


def folded(proto: onnx.ModelProto, folder: Path, preprocessing: FoldedPreprocessing = RGB, **shapes: Any) -> Path:
    """The graph with its preprocessing, as the stage export leaves it."""
    path = save(proto, folder / "model.onnx")
    contract = contract_of_proto(proto)
    ExportRecord(exporter="e", opset=20, nodes=1, weight_bytes=0, contract=contract).write(folder / "model.onnx.json")
    request = FoldRequest(workdir=str(folder), preprocessing=preprocessing, shapes=shapes)
    assert fold(request, lambda *_: None).names == ("model.onnx",)
    return path


class TestGraph:
    def test_it_takes_bytes_and_computes_what_the_model_did(self, tmp_path: Path) -> None:
        path = folded(conv_net(), tmp_path)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
        wanted = run(conv_net(), {"x": as_floats(pixels, RGB.mean, RGB.std)})["y"]
        assert np.array_equal(run(onnx.load(path), {"x": pixels})["y"], wanted)
        (spec,) = read_contract(path).inputs
        assert (spec.name, spec.dtype, spec.shape) == ("x", "uint8", ("N", 8, 8, 3))

    def test_its_record_tells_of_it(self, tmp_path: Path) -> None:
        path = folded(conv_net(), tmp_path)
        record = ExportRecord.read(path.with_name("model.onnx.json"))
        assert record.contract == read_contract(path)
        assert record.image_type == "float32"
        assert "uint8 [N, H, W, C]" in record.notes[-1]
        assert "differ by at most 0 of" in record.notes[-1]
        assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.json"]

    def test_a_model_that_takes_them_channels_last(self, tmp_path: Path) -> None:
        proto = model("(float[2,H,W,1] x) => (float[2,1,1,1] y) { y = ReduceSum(x, a) }", a=np.array([1, 2, 3]))
        gray = FoldedPreprocessing(input="x", layout="HWC", mean=(0.5,), std=(0.25,))
        path = folded(proto, tmp_path, gray, x=(2, 5, 7, 1))
        pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 1)).astype(np.uint8)
        wanted = run(proto, {"x": as_floats(pixels, 0.5, 0.25).transpose(0, 2, 3, 1)})["y"]
        assert np.array_equal(run(onnx.load(path), {"x": pixels})["y"], wanted)
        assert read_contract(path).inputs[0].shape == (2, "H", "W", 1)

    def test_floats_of_16_bits(self, tmp_path: Path) -> None:
        proto = model("(float16[N,3,4,4] x) => (float16[N,3,4,4] y) { y = Neg(x) }")
        path = folded(proto, tmp_path)
        pixels = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3) * 5
        wanted = run(proto, {"x": as_floats(pixels, RGB.mean, RGB.std).astype(np.float16)})["y"]
        assert np.array_equal(run(onnx.load(path), {"x": pixels})["y"], wanted)

    def test_channels_that_the_model_leaves_open_and_names_that_are_taken(self, tmp_path: Path) -> None:
        proto = model(
            "(float[N,C,H,W] x) => (float[N,C,H,W] y) { x_normalized = Neg(x) y = If(b) <then_branch = t () => "
            "(float z) { z = Add(x, x_normalized) }, else_branch = e () => (float w) { w = Identity(x) }> }",
            b=np.array(False),
        )
        path = folded(proto, tmp_path)
        pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3)).astype(np.uint8)
        assert np.array_equal(run(onnx.load(path), {"x": pixels})["y"], as_floats(pixels, RGB.mean, RGB.std))
        assert read_contract(path).inputs[0].shape == ("N", "H", "W", 3)

    def test_one_of_several_inputs(self, tmp_path: Path) -> None:
        proto = model("(float[1,3,4,4] x, float[1] s) => (float[1,3,4,4] y) { y = Mul(x, s) }")
        with pytest.raises(InputError, match="2 inputs: x, s"):
            folded(proto, tmp_path)
        path = folded(proto, tmp_path, RGB.model_copy(update={"input": "x"}))
        assert [spec.dtype for spec in read_contract(path).inputs] == ["uint8", "float32"]

    @pytest.mark.parametrize(
        ("graph", "preprocessing", "reason"),
        [
            ("(uint8[1,4,4,3] x) => (float[1,4,4,3] y) { y = Cast<to=1>(x) }", RGB, "takes no floats"),
            ("(int64[1,3,4,4] x) => (int64[1,3,4,4] y) { y = Neg(x) }", RGB, "takes no floats"),
            ("(float[1,12] x) => (float[1,12] y) { y = Neg(x) }", RGB, "no batch of images"),
            ("(float[1,4,4,4] x) => (float[1,4,4,4] y) { y = Neg(x) }", RGB, "takes 4 channels"),
            ("(float[1,4,4,3] x) => (float[1,4,4,3] y) { y = Neg(x) }", RGB, "takes 4 channels"),
            ("(float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Neg(x) }", RGB.model_copy(update={"input": "z"}), "'z'"),
        ],
    )
    def test_what_takes_no_such_images(
        self, graph: str, preprocessing: FoldedPreprocessing, reason: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=reason):
            folded(model(graph), tmp_path, preprocessing)

    def test_a_model_that_onnxruntime_cannot_run_is_rewritten_all_the_same(self, tmp_path: Path) -> None:
        proto = model("(float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Neg(x) }")
        proto.graph.node[0].domain = "elsewhere"
        proto.opset_import.add(domain="elsewhere", version=1)
        folded(proto, tmp_path)
        assert "was not compared" in ExportRecord.read(tmp_path / "model.onnx.json").notes[-1]


class TestSettings:
    FOLDING = DeploymentProfile.model_validate({"build": {"fold_preprocessing": True}})

    def of(self, **recipe: Any) -> FoldedPreprocessing | None:
        return FoldedPreprocessing.of(self.FOLDING, CalibrationRecipe.model_validate(recipe))

    def test_they_come_from_the_image_table(self) -> None:
        image = {"mean": RGB.mean, "std": RGB.std, "resize": 9, "crop": [8, 8]}
        assert self.of(data={"image": image}) == self.of(evaluation={"image": image}) == RGB
        gray = self.of(data={"image": {"channels": "L", "layout": "HWC"}})
        assert gray == FoldedPreprocessing(input="", layout="HWC", mean=(0.0,), std=(1.0,))
        assert FoldedPreprocessing.of(DeploymentProfile(), CalibrationRecipe()) is None

    def test_without_a_table_there_is_nothing_to_write(self) -> None:
        with pytest.raises(InputError, match="no image table"):
            self.of(data={"source": "photos"})

    @pytest.mark.parametrize("field", ["mean", "std", "layout"])
    def test_images_of_one_graph_are_prepared_alike(self, field: str) -> None:
        image = {"mean": [0.5] * 3, "std": [0.5] * 3, "layout": "CHW"}
        other = {"mean": [0.4] * 3, "std": [0.4] * 3, "layout": "HWC"}
        with pytest.raises(InputError, match=f"another {field}"):
            self.of(data={"image": image}, evaluation={"image": {**image, field: other[field]}})

    def test_sizes_may_differ(self) -> None:
        assert self.of(data={"image": {"resize": 9}}, evaluation={"image": {"letterbox": [8, 8]}})


def write_images(folder: Path, part: int, count: int) -> None:
    """Digits that were scanned, as PNG files in one folder a class."""
    image = pytest.importorskip("PIL.Image")
    with np.load(DIGITS / "digits.npz") as file:
        chosen = np.flatnonzero(file["split"] == part)[:count]
        images, labels = file["images"][chosen], file["labels"][chosen]
    for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        image.fromarray((pixels * 15.9375).astype(np.uint8)).save(folder / str(label) / f"{index}.png")


FACTORY = f"""
import sys
sys.path.insert(0, {str(DIGITS)!r})
import torch
from model import digits_cnn

class Normalized(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = digits_cnn()[0]

    def forward(self, image):
        return self.net(image * 0.25 + 0.3)

def net():
    return Normalized(), (torch.zeros(1, 1, 8, 8),)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder / "calib", 0, 64)
    write_images(folder / "eval", 1, 128)
    (folder / "net.py").write_text(FACTORY)
    image = {"channels": "L", "mean": [0.3], "std": [0.25]}
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in image.items())
    (folder / "recipe.toml").write_text(
        f'[data]\nsource = "calib"\n[data.image]\n{table}\n'
        f'[evaluation]\nsource = "eval"\nbatch = 16\nmetric = "top1"\n[evaluation.image]\n{table}\n'
    )
    return folder


class TestBuilds:
    def build(
        self, photos: Path, out: Path, *, folded: bool, source: str = "net.py:net", recipe: Any = None, **more: Any
    ) -> BuildResult:
        low, typical, high = ([n, 8, 8, 1] if folded else [n, 1, 8, 8] for n in (1, 16, 32))
        profile = {
            "backend": "tensorrt-rtx",
            "shapes": {"image": {"min": low, "opt": typical, "max": high}},
            "build": {"fold_preprocessing": folded},
            **more,
        }
        return trtpipe.build(
            f"{photos}/{source}", out, targets=["sm89"], recipe=recipe or photos / "recipe.toml",
            profile=DeploymentProfile.model_validate(profile), settings=Settings(cache_dir=photos / "cache"),
        )  # fmt: skip

    @pytest.mark.parametrize("precision", ["fp16", "int8"])
    def test_an_engine_takes_bytes_and_the_metric_is_what_it_was(
        self, photos: Path, tmp_path: Path, precision: str
    ) -> None:
        found = {
            each: self.build(photos, tmp_path / str(each), folded=each, precision=precision) for each in (False, True)
        }
        metrics = []
        for each, result in found.items():
            assert result.accurate
            parity = ParityReport.read(tmp_path / str(each) / "parity.json")
            assert parity.pytorch  # the module itself, on the same images prepared outside of it
            metrics.append({value.artifact: value.value for value in parity.metrics})
        assert metrics[0] == pytest.approx(metrics[1], abs=1 / 128)
        assert metrics[1]["lowered"] > 0.9
        engine = EngineRecord.read(tmp_path / "True" / "sm89.plan.json")
        assert [(spec.dtype, spec.shape) for spec in engine.io.inputs] == [("uint8", ("batch", 8, 8, 1))]
        plain = EngineRecord.read(tmp_path / "False" / "sm89.plan.json")
        assert engine.report is not None
        assert plain.report is not None
        assert engine.report.conv_gemm_types == plain.report.conv_gemm_types

    def test_an_onnx_file_with_shapes_from_the_images(self, photos: Path, tmp_path: Path) -> None:
        save(conv_net(), photos / "net.onnx")
        picture = pytest.importorskip("PIL.Image")
        (photos / "rgb").mkdir()
        for index, pixels in enumerate(np.random.default_rng(3).integers(0, 256, (9, 12, 16, 3)).astype(np.uint8)):
            picture.fromarray(pixels).save(photos / "rgb" / f"{index}.png")
        image = {"resize": 8, "crop": [8, 8], "channels": "BGR", "mean": RGB.mean, "std": RGB.std}
        result = self.build(
            photos, tmp_path / "out", folded=True, source="net.onnx", precision="int8", shapes="auto",
            recipe=CalibrationRecipe.model_validate({"data": {"source": str(photos / "rgb"), "image": image}}),
        )  # fmt: skip
        assert result.accurate
        engine = EngineRecord.read(tmp_path / "out" / "sm89.plan.json")
        assert engine.profiles[0]["x"].max[1:] == (8, 8, 3)
        summary = Ranges.read(tmp_path / "out" / "ranges.json").data_summary
        assert summary is not None
        assert 200 < summary.inputs["x"].maximum <= 255
        self.judge_again(tmp_path / "out", photos / "rgb", image)

    def judge_again(self, bundle: Path, folder: Path, image: dict[str, Any]) -> None:
        """No profile is given: the graphs say that they normalize images."""
        lowered, settings = bundle / "lowered.onnx", Settings(cache_dir=bundle.parent / "cache")
        recipe = CalibrationRecipe.model_validate({"evaluation": {"source": str(folder), "image": image}})
        assert trtpipe.verify(lowered, bundle / "model.onnx", recipe=recipe, settings=settings).accurate
        latency = DeploymentProfile.model_validate({"latency": {"duration": "20ms", "warmup": "1ms", "iterations": 1}})
        assert trtpipe.measure(lowered, profile=latency, recipe=recipe, settings=settings).latency is not None
        other = CalibrationRecipe.model_validate(
            {"evaluation": {"source": str(folder), "image": {**image, "mean": [0.1] * 3}}}
        )
        with pytest.raises(InputError, match="mean"):
            trtpipe.verify(lowered, bundle / "model.onnx", recipe=other, settings=settings)

    def test_a_graph_says_what_is_written_into_it(self) -> None:
        folded = FoldedPreprocessing(input="x", layout="CHW", mean=(0.5,) * 3, std=(0.2,) * 3)
        assert FoldedPreprocessing.in_metadata({METADATA: folded.model_dump_json()}, "m.onnx") == folded
        assert FoldedPreprocessing.in_metadata({"other": "{}"}, "m.onnx") is None
        with pytest.raises(InputError, match=METADATA):
            FoldedPreprocessing.in_metadata({METADATA: "[]"}, "m.onnx")


def test_arrays_of_bytes_are_data_too(tmp_path: Path) -> None:
    save(conv_net(), tmp_path / "net.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)

    def build(array: np.ndarray, **image: Any) -> BuildResult:
        np.savez(tmp_path / "calib.npz", x=array)
        recipe = {"data": {"source": str(tmp_path / "calib.npz"), "image": {"mean": [0.5] * 3, **image}}}
        profile = {
            "precision": "int8", "backend": "null", "build": {"fold_preprocessing": True}, "tolerance": {"atol": 9.0},
            "shapes": {"x": {"min": [1, 8, 8, 3], "opt": [1, 8, 8, 3], "max": [4, 8, 8, 3]}},
        }  # fmt: skip
        return trtpipe.build(
            tmp_path / "net.onnx", tmp_path / "out", targets=["sm89"], settings=Settings(cache_dir=tmp_path / "cache"),
            profile=DeploymentProfile.model_validate(profile), recipe=CalibrationRecipe.model_validate(recipe),
        )  # fmt: skip

    build(pixels)
    assert read_contract(tmp_path / "out" / "lowered.onnx").inputs[0].dtype == "uint8"
    with pytest.raises(InputError, match=r"float32.*uint8"):
        build(normal(8, 8, 8, 3))
    with pytest.raises(InputError, match="applies to images only"):
        build(pixels, resize=4)


def test_examples_of_a_module_may_come_from_them(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3))\n"
        "def net():\n    return Net()\n"
    )
    np.savez(tmp_path / "calib.npz", x=np.full((4, 6, 8, 3), 255, np.uint8))
    recipe = {"data": {"source": str(tmp_path / "calib.npz"), "image": {"mean": [0.5] * 3, "std": [0.5] * 3}}}
    trtpipe.export(
        f"{tmp_path}/net.py:net", tmp_path / "net.onnx", recipe=CalibrationRecipe.model_validate(recipe),
        profile=TestSettings.FOLDING, settings=Settings(cache_dir=tmp_path / "cache"),
    )  # fmt: skip
    assert read_contract(tmp_path / "net.onnx").inputs[0].shape == (1, 6, 8, 3)
    (found,) = run(onnx.load(tmp_path / "net.onnx"), {"x": np.full((1, 6, 8, 3), 255, np.uint8)}).values()
    assert found == pytest.approx(np.ones((1, 3)))


def test_later_stages_need_no_recipe_for_it() -> None:
    assert trtpipe.make_job(None, profile=TestSettings.FOLDING, engines=False).profile.build.fold_preprocessing
    with pytest.raises(InputError, match="no image table"):
        trtpipe.make_job("net.onnx", profile=TestSettings.FOLDING, engines=False)


def test_there_is_no_graph_to_write_into(tmp_path: Path) -> None:
    pytest.importorskip("torch_tensorrt")
    profile = {"backend": "torch-tensorrt", "build": {"fold_preprocessing": True}, "targets": ["sm89"]}
    recipe = CalibrationRecipe.model_validate({"data": {"image": {}}})
    with pytest.raises(TrtpipeError, match="no graph to write into"):
        trtpipe.make_job("net.pt2", profile=DeploymentProfile.model_validate(profile), recipe=recipe)
