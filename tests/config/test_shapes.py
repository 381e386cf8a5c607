from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.profile import OutputTolerance, ShapeRange, Tolerance
from trtpipe.config.shapes import check_outputs, check_shapes, gives_values, is_dynamic, parse_shapes
from trtpipe.errors import InputError


def contract(*outputs: str, **inputs) -> IOContract:
    return IOContract(
        inputs=tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in inputs.items()),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=None) for name in outputs),
    )


def span(low, mid, high) -> ShapeRange:
    return ShapeRange(min=low, opt=mid, max=high)


IMAGE = contract(image=("N", 3, 8, 8))
BATCHES = span((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))


def test_profiles_that_fit():
    check_shapes(IMAGE, [{"image": BATCHES}])
    check_shapes(IMAGE, [{"image": BATCHES}, {"image": span((16, 3, 8, 8), (16, 3, 8, 8), (16, 3, 8, 8))}])
    check_shapes(contract(image=(1, 3, 8, 8)), [])
    check_shapes(contract(image=(1, 3)), [{"image": span((1, 3), (1, 3), (1, 3))}])  # a static input may be repeated
    check_shapes(contract(image=None), [{"image": BATCHES}])


def test_an_unknown_input_is_suggested():
    with pytest.raises(InputError, match="shapes for 'imgae': no such input") as caught:
        check_shapes(IMAGE, [{"imgae": BATCHES}])
    assert caught.value.remedy == "did you mean 'image'? inputs: image"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (span((1, 3, 8), (1, 3, 8), (1, 3, 8)), "have rank 3, the model's input is image: float32"),
        (span((1, 3, 8, 9), (1, 3, 8, 9), (1, 3, 8, 9)), r"dimension 3 is fixed to 8 .* 9\.\.9"),
        (span((1, 1, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)), r"dimension 1 is fixed to 3 .* 1\.\.3"),
    ],
)
def test_shapes_that_contradict_the_model(shape, words):
    with pytest.raises(InputError, match=words):
        check_shapes(IMAGE, [{"image": shape}])


def test_every_profile_is_looked_at():
    with pytest.raises(InputError, match="fixed to 8"):
        check_shapes(IMAGE, [{"image": BATCHES}, {"image": span((1, 3, 9, 8), (1, 3, 9, 8), (1, 3, 9, 8))}])


def test_a_dimension_that_two_inputs_share_has_one_range():
    tied = contract(ids=("N", "S"), mask=("N", "S"))
    same = span((1, 4), (2, 8), (4, 16))
    check_shapes(tied, [{"ids": same, "mask": same}])
    with pytest.raises(InputError, match=r"dimension 'S' is 4\.\.8\.\.16 for input 'ids' but 4\.\.8\.\.32 for 'mask'"):
        check_shapes(tied, [{"ids": same, "mask": span((1, 4), (2, 8), (4, 32))}])
    with pytest.raises(InputError, match=r"'S' .* for 'mask'"):
        check_shapes(tied, [{"ids": same, "mask": span((1, 4), (2, 9), (4, 16))}])


def test_a_dimension_that_stands_twice_in_one_input():
    with pytest.raises(InputError, match="dimension 'S'"):
        check_shapes(contract(scores=("S", "S")), [{"scores": span((1, 1), (4, 4), (8, 9))}])


def test_unknown_dimensions_are_tied_to_nothing():
    free = contract(a=(None, 3), b=(None, 3))
    check_shapes(free, [{"a": span((1, 3), (1, 3), (4, 3)), "b": span((1, 3), (2, 3), (9, 3))}])


@pytest.mark.parametrize("profiles", [[], [{}], [{"image": BATCHES}, {}]])
def test_a_dynamic_input_needs_shapes_in_every_profile(profiles):
    with pytest.raises(InputError, match=r"input image: float32\[Nx3x8x8\] is dynamic") as caught:
        check_shapes(IMAGE, profiles)
    assert "image:1x3x8x8" in caught.value.remedy
    check_shapes(IMAGE, profiles, complete=False)


def test_an_input_of_unknown_rank_is_dynamic():
    with pytest.raises(InputError, match="unknown rank"):
        check_shapes(contract(x=None), [])


@pytest.mark.parametrize(
    ("shape", "dynamic"), [((1, 3), False), ((), False), (("N", 3), True), ((1, None), True), (None, True)]
)
def test_what_is_dynamic(shape, dynamic):
    assert is_dynamic(TensorSpec(name="x", dtype="float32", shape=shape)) is dynamic


def test_tolerances_of_outputs():
    check_outputs(["logits"], Tolerance(outputs={"logits": OutputTolerance(atol=1)}))
    check_outputs(["logits"], Tolerance(atol=1))
    with pytest.raises(InputError, match="tolerance for 'logit': no such output") as caught:
        check_outputs(["logits", "boxes"], Tolerance(outputs={"logit": OutputTolerance(atol=1)}))
    assert caught.value.remedy == "did you mean 'logits'? outputs: logits, boxes"


@pytest.mark.parametrize(
    ("dtype", "dims", "numbers", "values"),
    [
        ("int64", (3,), (2, 3, 8), True),
        ("int32", (), (5,), True),
        ("int64", (1,), (5,), True),
        ("int64", (1,), (1,), False),  # its length
        ("int64", (3,), (2, 3), False),
        ("int64", ("N",), (5,), False),  # a vector of any length holds no shape
        ("int64", (2, 3), (2, 3), False),
        ("float32", (3,), (2, 3, 8), False),
    ],
)
def test_numbers_that_are_values(dtype, dims, numbers, values):
    assert gives_values(dtype, dims, numbers) is values


def test_a_range_of_values_is_no_range_of_shapes():
    spec = TensorSpec(name="to", dtype="int64", shape=(3,))
    check_shapes(IOContract(inputs=(spec,), outputs=()), [{"to": span((1, 2, 8), (2, 2, 8), (4, 2, 8))}])
    with pytest.raises(InputError, match="have rank 2"):
        check_shapes(IOContract(inputs=(spec,), outputs=()), [{"to": span((1, 2), (2, 2), (4, 2))}])


def test_a_profile_that_misses_an_input_is_named():
    model = contract(ids=("N", "S"), mask=("N", "S"))
    same = span((1, 4), (2, 8), (4, 16))
    with pytest.raises(InputError, match="and optimization profile 2 has no shapes for it") as caught:
        check_shapes(model, [{"ids": same}, {"mask": same}])
    assert "add ids:1x1 there" in caught.value.remedy


class TestText:
    @pytest.mark.parametrize(
        ("text", "shapes"),
        [
            ("x:1x3x224x224", {"x": (1, 3, 224, 224)}),
            ("x:1x3,y:1x128", {"x": (1, 3), "y": (1, 128)}),
            ("x:[1,3,224,224] y:[1,128]", {"x": (1, 3, 224, 224), "y": (1, 128)}),
            ("x:[1, 3],y:5", {"x": (1, 3), "y": (5,)}),
            ("input:0:1x3", {"input:0": (1, 3)}),
            ("/model/Add_output_0:7", {"/model/Add_output_0": (7,)}),
            ("scalar:,x:2", {"scalar": (), "x": (2,)}),
            ("scalar:[]", {"scalar": ()}),
            ("  x:1  ", {"x": (1,)}),
        ],
    )
    def test_both_spellings(self, text: str, shapes: dict[str, tuple[int, ...]]) -> None:
        assert parse_shapes(text) == shapes

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "x",
            "x:ax3",
            "x:1x-1",
            "x:1x",
            "x:[1,3",
            "x:[1,,3]",
            "x:1.5",
            "x:1x3z",
            "[1,3]",
            ":1",
            f"x:{'9' * 5000}",
        ],
    )
    def test_what_is_no_shape_is_refused_with_an_example(self, text: str) -> None:
        with pytest.raises(InputError) as caught:
            parse_shapes(text)
        assert "x:1x3x224x224" in caught.value.remedy

    def test_an_input_has_one_shape(self) -> None:
        with pytest.raises(InputError, match="'x' has two shapes"):
            parse_shapes("x:1x3,x:2x3")

    names = st.text(st.characters(categories=["L", "N"], include_characters="_./:"), min_size=1, max_size=8)
    dims = st.lists(st.integers(0, 10**6), min_size=1, max_size=4).map(tuple)

    @given(st.dictionaries(names.filter(lambda name: not name.isdigit()), dims, min_size=1, max_size=3))
    def test_what_is_written_is_read(self, shapes: dict[str, tuple[int, ...]]) -> None:
        trtexec = ",".join(f"{name}:{'x'.join(map(str, dims))}" for name, dims in shapes.items())
        polygraphy = " ".join(f"{name}:{list(dims)}".replace(" ", "") for name, dims in shapes.items())
        assert parse_shapes(trtexec) == parse_shapes(polygraphy) == shapes
