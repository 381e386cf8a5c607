"""What was changed between a baseline and a build is caught, and called what it is."""

from __future__ import annotations

import shutil

import image_model
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import trtpipe
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.errors import InputError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with a model, its images, and the baseline of its INT8 build."""
    folder = image_model.write(tmp_path_factory.mktemp("changes"), images=12)
    trtpipe.save_baseline(build(folder, "good"), folder / "good.json")
    return folder


def build(folder, name, *, recipe=None, model="model.onnx", **profile):
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    shapes = {"x": {"min": [1, 3, 16, 16], "opt": [8, 3, 16, 16], "max": [8, 3, 16, 16]}}
    return trtpipe.build(
        folder / model,
        out,
        profile=DeploymentProfile.model_validate(
            {"precision": "int8", "backend": "null", "targets": ["sm89"], "shapes": shapes,
             "accuracy": {"max_drop": "100%"}, "tolerance": {"atol": 100.0, "min_snr_db": -99.0, "min_cosine": -1.0}}
            | profile
        ),
        recipe=CalibrationRecipe.model_validate(recipe or image_model.recipe(folder)),
        settings=Settings(cache_dir=folder / "cache"),
        simplify=False,
    ).out  # fmt: skip


def findings(folder, out):
    return {each.name: each for each in trtpipe.check(out, folder / "good.json").findings}


def test_nothing(images):
    report = trtpipe.check(build(images, "same"), images / "good.json")
    assert report.passed
    assert not {each.name for each in report.findings if each.status in ("failed", "note")}


@pytest.mark.parametrize("seed", range(4))
def test_noise_on_a_weight(images, seed):
    generator = np.random.default_rng(seed)
    proto = onnx.load(images / "model.onnx")
    tensors = [each for each in proto.graph.initializer if len(each.dims) > 1]
    tensor = tensors[int(generator.integers(len(tensors)))]
    array = numpy_helper.to_array(tensor)
    noise = generator.normal(0, 0.01 * array.std(), array.shape).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array + noise, tensor.name))
    onnx.save(proto, images / "noisy.onnx")
    found = findings(images, build(images, "noisy", model="noisy.onnx"))
    assert found["weights"].message == f"1 of 5 changed: {tensor.name}"
    assert not {"graph", "recipe", "settings", "precision of layers", "calibration data"} & found.keys()


@pytest.mark.parametrize("node", ["conv_0", "conv_2", "conv_4"])
def test_a_layer_in_another_precision(images, node):
    found = findings(images, build(images, "kept", keep=[node]))
    assert f"{node}: int8 -> float32" in found["precision of layers"].message
    assert f"profile.keep: [] -> ['{node}']" in found["settings"].message
    assert not {"weights", "graph", "recipe", "calibration data"} & found.keys()


@pytest.mark.parametrize(("field", "value"), [("mean", [0.485, 0.456, 0.406]), ("std", [0.229, 0.224, 0.225])])
class TestRecipe:
    def test_of_the_evaluation(self, images, field, value):
        changed = image_model.recipe(images)
        for part in changed.values():
            part["image"][field] = value
        with pytest.raises(
            InputError, match="the recipe changed, so that the samples are prepared otherwise"
        ) as caught:
            trtpipe.check(build(images, "prepared", recipe=changed), images / "good.json")
        assert f"[evaluation.image].{field}: [0.5, 0.5, 0.5] -> {value}" in caught.value.message
        assert "model" not in caught.value.message.partition(": ")[2]

    def test_of_the_calibration_alone(self, images, field, value):
        changed = image_model.recipe(images)
        changed["data"]["image"][field] = value
        found = findings(images, build(images, "prepared", recipe=changed))
        assert f"[data.image].{field}: [0.5, 0.5, 0.5] -> {value}" in found["recipe"].message
        assert not {"weights", "graph", "artifacts"} & found.keys(), "the same images, prepared otherwise"


def test_swapped_labels(images):
    """The folders of two classes under each other's name: the same images, and they are read in another order."""
    other = images / "swapped"
    shutil.copytree(images / "eval", other)
    first, second, spare = other / "amber", other / "coral", other / "spare"
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    recipe = image_model.recipe(images)
    recipe["evaluation"]["source"] = str(other)
    with pytest.raises(InputError, match="measured with other labels: the inputs are the same"):
        trtpipe.check(build(images, "labels", recipe=recipe), images / "good.json")


def test_other_images(images):
    other = images / "other"
    shutil.copytree(images / "eval", other)
    next(other.glob("amber/*.png")).unlink()
    recipe = image_model.recipe(images)
    recipe["evaluation"]["source"] = str(other)
    with pytest.raises(InputError, match="measured on other data"):
        trtpipe.check(build(images, "fewer", recipe=recipe), images / "good.json")
