"""Calibration and evaluation data that do not fit the model, or are none; and int8 without any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.bad_input.conftest import Refused

GOOD = np.linspace(-1, 1, 128, dtype=np.float32).reshape(16, 8)

FUNCTIONS = """\
import numpy as np

good = np.zeros((2, 8), np.float32)

def breaks():
    yield {"x": good}
    raise OSError("the camera is gone")

def nothing(): return None
def empty(): yield from ()
def name(): yield {"q": good}
def shape(): yield {"x": good[:, :7]}
def nan(): yield {"x": good * np.nan}
"""


def spoilt(value: float) -> np.ndarray:
    """Good data with one bad value in row 3."""
    data = GOOD.copy()
    data[3, 2] = value
    return data


class TestArrays:
    @pytest.mark.parametrize(
        ("arrays", "error", "remedy"),
        [
            ({"z": GOOD}, "array 'z' is not an input of the model", "inputs here: x"),
            ({"x": GOOD, "extra": GOOD}, "array 'extra' is not an input of the model", "labels = 'extra'"),
            ({}, "no array for input 'x'", "arrays here: none"),
            ({"x": GOOD[:, :7]}, "row 0: input 'x' has shape [1, 7], the model takes x: float32[", "shape"),
            ({"x": GOOD.reshape(4, 2, 2, 8)}, "array 'x' has shape [4, 2, 2, 8]", "along the first axis"),
            ({"x": np.float32(1)}, "array 'x' is a single number", "along the first axis"),
            ({"x": GOOD.astype(np.int32)}, "row 0: input 'x' has type int32, the model takes float32", "astype"),
            ({"x": GOOD.astype(np.uint8)}, "row 0: input 'x' has type uint8", "x.astype('float32') / 255"),
            ({"x": GOOD.astype(str)}, "array 'x' has type <U", "store numbers"),
            (
                {"x": spoilt(np.nan)},
                "row 3: input 'x' holds NaN or infinity in 1 of 8 values",
                "remove this sample",
            ),
            (
                {"x": spoilt(np.inf)},
                "row 3: input 'x' holds NaN or infinity in 1 of 8 values",
                "remove this sample",
            ),
            ({"x": GOOD[:0]}, "there are no samples", "give data"),
            ({"x": GOOD[:1]}, "1 samples do not fill one batch of 2", "at least 2 samples"),
        ],
        ids=lambda value: value[:24] if isinstance(value, str) else "",
    )
    def test_names_file_row_and_input(
        self, refused: Refused, model: Path, tmp_path: Path, arrays: dict[str, np.ndarray], error: str, remedy: str
    ) -> None:
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        said, advice = refused(model, "--int8", "--calib-data", path)
        assert said.startswith(f"{path}: {error}")
        assert remedy in advice

    def test_python_objects_are_never_unpickled(self, refused: Refused, model: Path, tmp_path: Path) -> None:
        path = tmp_path / "data.npz"
        np.savez(path, x=np.array([Path("x"), None], object))
        error, remedy = refused(model, "--int8", "--calib-data", path)
        assert error == f"{path}: array 'x' holds Python objects"
        assert "pickle" in remedy


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def emptied(content: bytes) -> bytes:
    return content[:0]


def replaced(content: bytes) -> bytes:
    return b"junk" * len(content)


class TestFiles:
    @pytest.mark.parametrize("damage", [cut, flipped, emptied, replaced], ids=lambda damage: damage.__name__)
    def test_damaged_npz(
        self, refused: Refused, model: Path, data: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        path = tmp_path / "damaged.npz"
        path.write_bytes(damage(data.read_bytes()))
        error, remedy = refused(model, "--int8", "--calib-data", path)
        assert error.startswith(f"{path}: cannot be read: ")
        assert remedy == "write the file again with numpy"

    def test_npy_that_is_cut_short(self, refused: Refused, model: Path, tmp_path: Path) -> None:
        path = tmp_path / "data.npy"
        np.save(path, GOOD)
        path.write_bytes(path.read_bytes()[:-4])
        error, _ = refused(model, "--int8", "--calib-data", path)
        assert error.startswith(f"{path}: cannot be read: ")

    @pytest.mark.parametrize("name", ["nowhere.npz", "nowhere.npy", "nowhere", "nowhere.py:samples"])
    def test_that_do_not_exist(self, refused: Refused, model: Path, tmp_path: Path, name: str) -> None:
        error, remedy = refused(model, "--int8", "--calib-data", tmp_path / name)
        assert error.startswith(f"{tmp_path}/{name.partition(':')[0]}: no such file")
        assert ("path before the colon" if ":" in name else "file.py:function") in remedy

    def test_folder_without_images(self, refused: Refused, model: Path, tmp_path: Path) -> None:
        error, remedy = refused(model, "--int8", "--calib-data", tmp_path)
        assert error.startswith(f"{tmp_path}: ")
        assert remedy

    def test_of_an_unknown_kind(self, refused: Refused, model: Path, tmp_path: Path) -> None:
        path = tmp_path / "data.csv"
        path.write_text("1,2,3\n")
        error, remedy = refused(model, "--int8", "--calib-data", path)
        assert error == f"{path}: not a kind of data trtpipe reads"
        assert "an .npz file" in remedy


class TestFunctions:
    @pytest.mark.parametrize(
        ("function", "error", "remedy"),
        [
            ("breaks", ":breaks: sample 1 failed: OSError: the camera is gone (samples.py, line 7)", "correct"),
            ("nothing", ":nothing: sample 0 failed: TypeError", "correct the function"),
            ("empty", ":empty: there are no samples", "give data"),
            ("name", ":name: sample 0: the model has no input 'q'", "inputs here: x"),
            ("shape", ":shape: sample 0: input 'x' has shape [2, 7], the model takes x: float32[2x8]", "shape"),
            ("nan", ":nan: sample 0: input 'x' holds NaN or infinity in 16 of 16 values", "--skip-bad-samples"),
            ("shap", ": there is no function 'shap'", "did you mean 'shape'?"),
        ],
    )
    def test_names_function_and_sample(
        self, refused: Refused, model: Path, tmp_path: Path, function: str, error: str, remedy: str
    ) -> None:
        path = tmp_path / "samples.py"
        path.write_text(FUNCTIONS)
        said, advice = refused(model, "--int8", "--calib-data", f"{path}:{function}")
        assert said.startswith(f"{path}{error}")
        assert remedy in advice


class TestNone:
    @pytest.mark.parametrize("precision", ["int8", "fp8"])
    def test_eight_bits_need_some(self, refused: Refused, model: Path, precision: str) -> None:
        error, remedy = refused(model, f"--{precision}")
        assert error == f"{precision} needs calibration data, and none was given"
        assert remedy.startswith("add --calib-data")

    def test_two_precisions_are_named_as_they_were_given(self, refused: Refused, model: Path) -> None:
        error, _ = refused(model, "--int8", "--fp16")
        assert "int8" in error
        assert "fp16" in error

    def test_recipe_that_names_none(self, refused: Refused, model: Path, tmp_path: Path) -> None:
        path = tmp_path / "recipe.toml"
        path.write_text("[data]\nsamples = 16\n")
        error, _ = refused(model, "--int8", "--calib", path)
        assert error == "int8 needs calibration data, and none was given"


class TestEvaluation:
    def test_labels_that_are_not_there(self, refused: Refused, model: Path, data: Path) -> None:
        error, remedy = refused(model, "--eval-data", data, "--labels", "digit")
        assert error == f"{data}: no array 'digit' for the labels"
        assert remedy == "arrays here: x"

    def test_metric_without_labels_is_not_a_gate_that_holds(self, refused: Refused, model: Path, data: Path) -> None:
        error, remedy = refused(model, "--eval-data", data, "--metric", "top1", kept="verify")
        assert error.startswith(data.name)
        assert error.endswith("no labels, so top1 cannot be measured")
        assert "--labels NAME" in remedy

    def test_label_outside_the_classes(self, refused: Refused, model: Path, tmp_path: Path) -> None:
        path = tmp_path / "labeled.npz"
        np.savez(path, x=GOOD, digit=np.full(16, 4))
        error, remedy = refused(model, "--eval-data", path, "--labels", "digit", kept="verify")
        assert error == "label 4 does not fit the 4 classes of output 'y'"
        assert remedy
