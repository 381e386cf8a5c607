"""The Python model that makes inputs of image files, with a fake of what Triton's back-end gives it."""

from __future__ import annotations

import importlib.util
import io
import sys
import wave
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import trtpipe.delivery.triton
from trtpipe.config.audio_transform import AudioTransform
from trtpipe.config.image_transform import ImageTransform
from trtpipe.data.pixels import load_tensor
from trtpipe.data.waves import load_energies
from trtpipe.delivery.record import Preprocessing
from trtpipe.delivery.schema import to_text

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
TRANSFORM = ImageTransform(resize=(8, 6), channels="BGR", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


class Server(ModuleType):
    """triton_python_backend_utils."""

    TritonError = str

    @staticmethod
    def get_input_tensor_by_name(request: dict[str, np.ndarray], name: str) -> Any:
        return SimpleNamespace(as_numpy=lambda: request[name])

    @staticmethod
    def Tensor(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
        return name, value

    @staticmethod
    def InferenceResponse(tensors: list[Any], error: str | None = None) -> Any:
        return SimpleNamespace(tensors=tensors, error=error)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", Server("triton_python_backend_utils"))
    source = Path(trtpipe.delivery.triton.__file__).with_name("triton_preprocess.py")
    spec = importlib.util.spec_from_file_location("model", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "1").mkdir()

    def started(wanted: Preprocessing) -> Any:
        (tmp_path / "1" / "transform.json").write_text(to_text(wanted))
        made = module.TritonPythonModel()
        made.initialize({"model_repository": str(tmp_path), "model_version": "1"})
        return made

    return started


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    stream = io.BytesIO()
    PIL.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def model(started: Any) -> Any:
    return started(Preprocessing("x", TRANSFORM))


def test_sounds_become_what_calibration_makes_of_them(started: Any) -> None:
    transform = AudioTransform(sample_rate=8000, window=64, hop=32, bands=4)
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).integers(-999, 999, 800, np.int16).tobytes())
    files = np.array([stream.getvalue()], object)
    (response,) = started(Preprocessing("x", audio=transform)).execute([{"SOUND": files}])
    ((name, value),) = response.tensors
    assert (name, value.shape) == ("x", (1, 4, 25))
    np.testing.assert_array_equal(value[0], load_energies(Path("x"), transform, io.BytesIO(files[0])))


def test_images_become_what_calibration_makes_of_them(model: Any) -> None:
    files = [png(1), png(2)]
    (response,) = model.execute([{"IMAGE": np.array(files, object).reshape(2, 1)}])
    ((name, value),) = response.tensors
    expected = [load_tensor(Path("x"), TRANSFORM, False, io.BytesIO(file)) for file in files]
    assert (name, value.shape, value.dtype) == ("x", (2, 3, 8, 6), np.float32)
    np.testing.assert_array_equal(value, np.stack(expected))


def test_what_is_no_image_is_the_error_of_its_request_alone(model: Any) -> None:
    bad, good = model.execute([{"IMAGE": np.array([b"no image"], object)}, {"IMAGE": np.array([png(1)], object)}])
    assert "image 0" in bad.error
    assert bad.tensors == []
    assert good.error is None
