from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

from trtpipe.data.input_checks import checked, free_batch, is_single, static_batch
from trtpipe.data.sample import Sample
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from conftest import MakeContract

F32 = np.zeros((2, 3), np.float32)


def fit(contract: Any, value: Any, dtype: str = "float32", shape: Any = ("N", 3)) -> np.ndarray:
    return checked(Sample({"x": np.asarray(value)}), contract(x=(dtype, shape)), "data: sample 7").feed["x"]


class TestNames:
    def test_an_unknown_input_gets_a_suggestion(self, contract: MakeContract) -> None:
        with pytest.raises(InputError, match="data: sample 7: the model has no input 'imgae'") as error:
            checked(Sample({"imgae": F32}), contract(image=("float32", None)), "data: sample 7")
        assert "did you mean 'image'?" in error.value.remedy

    def test_a_missing_input_is_named(self, contract: MakeContract) -> None:
        with pytest.raises(InputError, match="no array for input 'mask'"):
            checked(Sample({"x": F32}), contract(x=("float32", None), mask=("bool", None)), "d")

    def test_inputs_come_out_in_the_models_order(self, contract: MakeContract) -> None:
        sample = Sample({"b": F32, "a": F32})
        assert list(checked(sample, contract(a=("float32", None), b=("float32", None)), "d").feed) == ["a", "b"]


class TestTypes:
    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            ("float64", "float32"),
            ("float16", "float32"),
            (">f4", "float32"),
            ("float32", "float16"),
            ("float32", "bfloat16"),
            ("int32", "int64"),
            ("int64", "int32"),
            ("uint8", "int64"),
            ("bool", "int64"),
        ],
    )
    def test_conversions_without_loss_are_made(self, contract: MakeContract, given: str, wanted: str) -> None:
        value = fit(contract, np.array([[0, 1, 1]], dtype=given), wanted)
        assert value.dtype.name == wanted
        assert value.astype(np.int64).tolist() == [[0, 1, 1]]

    @pytest.mark.parametrize(
        ("given", "wanted"),
        [("uint8", "float32"), ("int64", "float32"), ("bool", "float32"), ("float32", "int64"), ("int64", "bool")],
    )
    def test_conversions_that_guess_are_refused(self, contract: MakeContract, given: str, wanted: str) -> None:
        with pytest.raises(InputError, match=rf"sample 7: input 'x' has type {given}, the model takes {wanted}"):
            fit(contract, np.zeros((1, 3), given), wanted)

    def test_pixels_for_a_float_input_are_told_about_scaling(self, contract: MakeContract) -> None:
        with pytest.raises(InputError) as error:
            fit(contract, np.zeros((1, 3), np.uint8))
        assert "/ 255" in error.value.remedy

    def test_integers_too_large_for_the_input_are_refused(self, contract: MakeContract) -> None:
        with pytest.raises(InputError, match="has type int64, the model takes int32"):
            fit(contract, np.array([[0, 1, 2**31]]), "int32")

    def test_floats_too_large_for_the_input_are_refused(self, contract: MakeContract) -> None:
        with pytest.raises(InputError, match="values too large for float16"):
            fit(contract, np.array([[0, 1, 70000]], np.float32), "float16")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity_are_refused_and_counted(self, contract: MakeContract, bad: float) -> None:
        with pytest.raises(InputError, match="holds NaN or infinity in 2 of 3 values"):
            fit(contract, np.array([[bad, 1, bad]], np.float32))

    def test_nan_in_bfloat16_is_seen(self, contract: MakeContract) -> None:
        with pytest.raises(InputError, match="NaN"):
            fit(contract, np.array([[np.nan, 1, 1]], ml_dtypes.bfloat16), "bfloat16")

    def test_objects_and_text_are_refused(self, contract: MakeContract) -> None:
        for value in (np.array([[None, 1, 2]]), np.array([["a", "b", "c"]])):
            with pytest.raises(InputError, match="has type"):
                fit(contract, value)

    def test_a_text_input_is_refused(self, contract: MakeContract) -> None:
        with pytest.raises(InputError, match="input 'x' takes string"):
            fit(contract, F32, "string")


class TestShapes:
    def test_a_single_sample_gets_a_batch_axis(self, contract: MakeContract) -> None:
        assert fit(contract, np.zeros(3, np.float32)).shape == (1, 3)

    @pytest.mark.parametrize("shape", [(2, 4), (1, 2, 3), ()])
    def test_a_wrong_shape_is_refused_with_both_shapes(self, contract: MakeContract, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=r"sample 7: input 'x' has shape \[.*the model takes x: float32\[Nx3\]"):
            fit(contract, np.zeros(shape, np.float32))

    def test_a_fixed_batch_must_be_met(self, contract: MakeContract) -> None:
        assert fit(contract, F32, shape=(2, 3)).shape == (2, 3)
        with pytest.raises(InputError, match=r"has shape \[2, 3\]"):
            fit(contract, F32, shape=(4, 3))

    def test_an_unknown_rank_takes_anything(self, contract: MakeContract) -> None:
        assert fit(contract, np.zeros((1, 2, 3, 4), np.float32), shape=None).shape == (1, 2, 3, 4)


class TestLabels:
    def check(self, contract: Any, labels: np.ndarray) -> np.ndarray | None:
        return checked(Sample({"x": F32}, labels), contract(x=("float32", ("N", 3))), "d").labels

    def test_become_int64_one_a_row(self, contract: MakeContract) -> None:
        labels = self.check(contract, np.array([[3], [5]], np.uint8))
        assert labels is not None
        assert (labels.dtype, labels.tolist()) == (np.int64, [3, 5])

    def test_of_wrong_number_are_refused(self, contract: MakeContract) -> None:
        with pytest.raises(InputError, match=r"3 label\(s\) for 2 row\(s\)"):
            self.check(contract, np.arange(3))

    def test_that_are_no_integers_are_refused(self, contract: MakeContract) -> None:
        with pytest.raises(InputError, match="labels have type float64"):
            self.check(contract, np.array([0.0, 1.0]))


def test_batch_helpers(contract: MakeContract) -> None:
    fixed = contract(x=("float32", (4, 3)), s=("float32", ()))
    assert static_batch(fixed) == 4
    assert static_batch(free_batch(fixed)) is None
    assert free_batch(fixed).inputs[1].shape == ()
    assert static_batch(contract(x=("float32", ("N", 3)), y=("float32", None))) is None
    one = contract(x=("float32", ("N", 3)))
    assert is_single({"x": np.zeros(3)}, one)
    assert not is_single({"x": np.zeros((1, 3))}, one)
