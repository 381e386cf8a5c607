"""The digits example: its data, its committed weights and its training script."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).parents[2] / "examples" / "digits"


def module_of(file: Path) -> ModuleType:
    """The file as a module of its own, the way ``trtpipe`` reads a ``file.py:function`` source."""
    spec = importlib.util.spec_from_file_location(f"digits_example_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data() -> ModuleType:
    return module_of(FOLDER / "data.py")


@pytest.fixture(scope="module")
def model() -> ModuleType:
    return module_of(FOLDER / "model.py")


def accuracy(network: torch.nn.Module, data: ModuleType) -> float:
    right = total = 0
    with torch.inference_mode():
        for feed, labels in data.held_out():
            logits = network(torch.from_numpy(feed["image"]))["logits"]
            right += int((logits.argmax(dim=1).numpy() == labels).sum())
            total += len(labels)
    return right / total


class TestData:
    def test_calibration_feeds_are_single_images_on_the_unit_scale(self, data: ModuleType) -> None:
        feeds = list(data.calibration())
        assert {(tuple(feed), feed["image"].dtype.name, feed["image"].shape) for feed in feeds} == {
            (("image",), "float32", (1, 1, 8, 8))
        }
        images = np.concatenate([feed["image"] for feed in feeds])
        assert (images.min(), images.max()) == (0, 1)

    def test_held_out_batches_carry_one_label_an_image(self, data: ModuleType) -> None:
        seen: set[int] = set()
        for feed, labels in data.held_out():
            assert feed["image"].dtype == np.float32
            assert feed["image"].shape == (len(labels), 1, 8, 8)
            assert labels.dtype == np.int64
            seen |= set(labels.tolist())
        assert seen == set(range(10))

    def test_every_iteration_gives_the_same(self, data: ModuleType) -> None:
        for first, second in zip(data.calibration(), data.calibration(), strict=True):
            np.testing.assert_array_equal(first["image"], second["image"])
        for (first, labels), (second, labels_again) in zip(data.held_out(), data.held_out(), strict=True):
            np.testing.assert_array_equal(first["image"], second["image"])
            np.testing.assert_array_equal(labels, labels_again)

    def test_no_held_out_image_is_used_for_calibration(self, data: ModuleType) -> None:
        calibration = {feed["image"].tobytes() for feed in data.calibration()}
        held_out = {image.tobytes() for feed, _ in data.held_out() for image in feed["image"]}
        assert not calibration & held_out

    def test_both_parts_together_are_the_data_set_that_scikit_learn_ships(self, data: ModuleType) -> None:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        digits = load_digits()
        parts = [data.load(data.TRAIN), data.load(data.HELD_OUT)]
        images = np.concatenate([images for images, _ in parts]).reshape(-1, 8, 8) * 16
        labels = np.concatenate([labels for _, labels in parts])
        np.testing.assert_array_equal(images, digits.images)
        np.testing.assert_array_equal(labels, digits.target)

    def test_needs_numpy_alone(self) -> None:
        code = (
            "import data, sys; list(data.held_out()); print(sorted({'sklearn', 'scipy', 'torch'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestModel:
    def test_committed_weights_read_held_out_digits(self, model: ModuleType, data: ModuleType) -> None:
        network, _ = model.digits_cnn()
        assert accuracy(network, data) >= 0.98

    def test_factory_gives_a_module_ready_to_export(self, model: ModuleType) -> None:
        network, inputs = model.digits_cnn()
        assert not any(part.training for part in network.modules())
        (image,) = inputs
        assert (image.dtype, tuple(image.shape)) == (torch.float32, (1, 1, 8, 8))
        result = network(image)
        assert {name: tuple(value.shape) for name, value in result.items()} == {"logits": (1, 10)}

    def test_an_image_is_read_the_same_alone_and_in_a_batch(self, model: ModuleType, data: ModuleType) -> None:
        network, _ = model.digits_cnn()
        feed, _ = next(data.held_out())
        images = torch.from_numpy(feed["image"])
        with torch.inference_mode():
            together = network(images)["logits"]
            alone = torch.cat([network(image[None])["logits"] for image in images])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)

    def test_is_small_and_has_what_quantization_has_to_deal_with(self, model: ModuleType) -> None:
        network, _ = model.digits_cnn()
        kinds = {type(part).__name__ for part in network.modules()}
        assert {"Conv2d", "BatchNorm2d", "Residual", "Linear"} <= kinds
        assert 30_000 <= sum(parameter.numel() for parameter in network.parameters()) <= 60_000
        assert (FOLDER / "weights.safetensors").stat().st_size < 200_000


@pytest.mark.slow
def test_training_again_gives_the_same_data_and_as_good_a_network(
    model: ModuleType, data: ModuleType, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    command = [sys.executable, str(FOLDER / "train.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with np.load(FOLDER / "digits.npz") as committed, np.load(tmp_path / "digits.npz") as again:
        assert committed.files == again.files
        for name in committed.files:
            np.testing.assert_array_equal(committed[name], again[name])
    network = model.DigitsCNN()
    network.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    retrained = accuracy(network.eval(), data)
    assert retrained >= 0.98
    assert f"{retrained:.4f}" in done.stdout
