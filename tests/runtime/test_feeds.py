from __future__ import annotations

import wave

import numpy as np
import pytest
from packages import record

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.image_transform import ImageTransform
from trtpipe.config.recipe import AudioSettings, DataSettings, ImageSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.delivery.record import Preprocessing, Range, Tensor
from trtpipe.errors import InputError
from trtpipe.runtime.feeds import Feeder

IMAGE = {"resize": 9, "crop": (8, 8), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "channels": "BGR"}


def feeder(**changes: object) -> Feeder:
    model = record(**changes)
    return Feeder(model, model.plans[0].profiles)


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


def two_inputs(**changes: object) -> Feeder:
    inputs = (Tensor("a", "float32", ("N", 4)), Tensor("b", "int64", ("N", None)), Tensor("n", "int64", (1,)))
    model = record(inputs=inputs)
    profile = {"a": Range((1, 4), (2, 4), (8, 4)), "n": Range((2,), (4,), (8,))}
    return Feeder(model, [profile])


def test_an_array_for_the_only_input_and_a_dict_are_the_same() -> None:
    x = zeros(2, 3, 8, 8)
    assert feeder().feed(x)["x"] is x
    assert feeder().feed({"x": x})["x"] is x


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (zeros(2, 3, 8, 8, dtype="float64"), "input 'x' has type float64"),
        (zeros(2, 3, 8, 8, dtype="uint8"), "input 'x' has type uint8"),
        (zeros(3, 8, 8), "input 'x' has shape 3x8x8"),
        (zeros(2, 1, 8, 8), "input 'x' has shape 2x1x8x8"),
        (zeros(9, 3, 8, 8), "input 'x' has shape 9x3x8x8, outside what the plan was built for: 1x3x8x8 to 8x3x8x8"),
        (zeros(0, 3, 8, 8), "input 'x' has shape 0x3x8x8"),
        ([[1.0]], "input 'x': a list is no array"),
        (None, "input 'x': a NoneType is no array"),
        ("photo.png", "input 'x' takes no files"),
        ({}, "input 'x' is not given"),
        ({"x": zeros(2, 3, 8, 8), "z": 1}, "no input 'z'"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_the_input(given: object, word: str) -> None:
    with pytest.raises(InputError) as caught:
        feeder().feed(given)
    assert word in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"b": zeros(3, 7, dtype="int64")}, "input 'b': dimension N is 3 here and 2 in 'a'"),
        ({"a": zeros(9, 4), "b": zeros(9, 7, dtype="int64")}, "input 'a' has shape 9x4, outside"),
        ({"n": zeros(2, dtype="int64")}, "input 'n' has shape 2"),
        ({"n": np.array([9])}, "input 'n' has values 9, outside what the plan was built for: 2 to 8"),
    ],
)
def test_several_inputs(change: dict[str, np.ndarray], word: str) -> None:
    good = {"a": zeros(2, 4), "b": zeros(2, 7, dtype="int64"), "n": np.array([4])}
    assert list(two_inputs().feed(good)) == ["a", "b", "n"]
    with pytest.raises(InputError) as caught:
        two_inputs().feed(good | change)
    assert word in caught.value.message


def test_a_scalar_that_decides_shapes_is_limited_by_its_value() -> None:
    model = record(inputs=(Tensor("n", "int64", ()),))
    one = Feeder(model, [{"n": Range((2,), (4,), (8,))}])
    assert one.feed(np.array(8))["n"] == 8
    with pytest.raises(InputError, match="input 'n' has values 1"):
        one.feed(np.array(1))


def test_one_array_for_several_inputs_is_refused() -> None:
    with pytest.raises(InputError, match="3 inputs"):
        two_inputs().feed(zeros(2, 4))


def test_one_of_several_profiles_has_to_admit_all_inputs_together() -> None:
    model = record(inputs=(Tensor("a", "float32", (None,)), Tensor("b", "float32", (None,))))
    small, large = ({name: Range((low,), (low,), (high,)) for name in ("a", "b")} for low, high in ((1, 2), (5, 9)))
    both = Feeder(model, [small, large])
    both.feed({"a": zeros(1), "b": zeros(2)})
    both.feed({"a": zeros(5), "b": zeros(9)})
    with pytest.raises(InputError, match="outside"):
        both.feed({"a": zeros(1), "b": zeros(9)})


def test_a_range_of_several_profiles_is_said_once() -> None:
    profile = {"x": Range((1, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8))}
    with pytest.raises(InputError) as caught:
        Feeder(record(), [profile, profile]).feed(zeros(9, 3, 8, 8))
    assert caught.value.message.count("1x3x8x8 to 8x3x8x8") == 1


def test_arrays_of_torch_in_host_memory_are_taken_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(2, 3, 8, 8)
    array = feeder().feed(tensor)["x"]
    tensor[0, 0, 0, 0] = 7
    assert isinstance(array, np.ndarray)
    assert array[0, 0, 0, 0] == 7
    with pytest.raises(InputError, match="input 'x' has type float16"):
        feeder().feed(tensor.half())


class TestSounds:
    def test_are_prepared_exactly_as_for_calibration(self, tmp_path) -> None:
        audio = AudioSettings(sample_rate=8000, window=64, hop=32, bands=4)
        path = tmp_path / "a.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(0).integers(-999, 999, 800, np.int16).tobytes())
        contract = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=("N", 4, "t")),), outputs=())
        (sample,) = open_dataset(DataSettings(source=str(tmp_path), audio=audio), contract)
        inputs = (Tensor("x", "float32", ("N", 4, None)),)
        given = Feeder(record(inputs=inputs, preprocessing=(Preprocessing("x", audio=audio.transform()),)), [])
        for content in (path, str(path), path.read_bytes(), [path]):
            np.testing.assert_array_equal(given.feed(content)["x"], sample.feed["x"])
        with pytest.raises(InputError, match="sound 0"):
            given.feed(b"no sound")


class TestImages:
    @pytest.fixture
    def folder(self, tmp_path):
        image = pytest.importorskip("PIL.Image")
        generator = np.random.default_rng(3)
        for index, size in enumerate(((12, 20), (9, 9), (31, 11))):
            pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / f"{index}.png")
        return tmp_path

    def with_images(self, dtype: str = "float32", **more: object) -> Feeder:
        inputs = (Tensor("x", dtype, ("N", 3, 8, 8)),)
        image = Preprocessing("x", ImageSettings(**IMAGE).transform(), **more)  # type: ignore[arg-type]
        return feeder(inputs=inputs, preprocessing=(image,))

    def test_are_prepared_exactly_as_for_calibration(self, folder) -> None:
        contract = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=("N", 3, 8, 8)),), outputs=())
        settings = DataSettings(source=str(folder), batch=3, image=ImageSettings(**IMAGE))
        (sample,) = open_dataset(settings, contract)
        found = self.with_images().feed([folder / f"{index}.png" for index in range(3)])["x"]
        np.testing.assert_array_equal(found, sample.feed["x"])
        one = self.with_images().feed(str(folder / "1.png"))["x"]
        np.testing.assert_array_equal(one, sample.feed["x"][1:2])

    def test_may_come_as_bytes(self, folder) -> None:
        path = folder / "2.png"
        wanted = self.with_images().feed(path)["x"]
        np.testing.assert_array_equal(self.with_images().feed(path.read_bytes())["x"], wanted)
        with pytest.raises(InputError, match="image 1"):
            self.with_images().feed([path.read_bytes(), b"no image"])

    def test_become_the_type_of_the_input(self, folder) -> None:
        found = self.with_images("float16").feed(folder / "0.png")["x"]
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, self.with_images().feed(folder / "0.png")["x"].astype(np.float16))

    def test_that_make_no_batch_are_named(self, folder) -> None:
        image = Preprocessing("x", ImageTransform())
        bad = feeder(inputs=(Tensor("x", "float32", ("N", 3, None, None)),), preprocessing=(image,))
        with pytest.raises(InputError, match=r"1\.png becomes 3x9x9"):
            bad.feed([folder / "0.png", folder / "1.png"])

    def test_a_damaged_one_is_named(self, folder) -> None:
        (folder / "bad.png").write_bytes(b"no image")
        with pytest.raises(InputError, match=r"bad\.png"):
            self.with_images().feed(folder / "bad.png")
