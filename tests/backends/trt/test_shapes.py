from __future__ import annotations

import pytest

from trtpipe.artifact import TensorSpec
from trtpipe.backends.trt.shapes import NetworkInput, check_profiles
from trtpipe.config.profile import ShapeRange
from trtpipe.errors import InputError


def network_input(name, dtype, *shape, holds_shape=False) -> NetworkInput:
    return NetworkInput(TensorSpec(name=name, dtype=dtype, shape=shape), holds_shape)


IDS = network_input("ids", "int64", "batch", "seq")
MASK = network_input("mask", "int64", "batch", "seq")
IMAGE = network_input("image", "float32", "N", 3, 224, 224)
FIXED = network_input("fixed", "float32", 1, 8)
SIZES = network_input("sizes", "int64", 2, holds_shape=True)
SCALAR = network_input("steps", "int32", holds_shape=True)
SETTLED = network_input("rate", "int64")


def span(low, mid, high) -> ShapeRange:
    return ShapeRange(min=low, opt=mid, max=high)


WORDS = span((1, 8), (4, 64), (8, 128))
BATCHES = span((1, 3, 224, 224), (2, 3, 224, 224), (4, 3, 224, 224))


@pytest.mark.parametrize(
    ("inputs", "profiles"),
    [
        ((FIXED,), ()),
        ((FIXED,), ({"fixed": span((1, 8), (1, 8), (1, 8))},)),
        ((IDS, MASK, FIXED), ({"ids": WORDS, "mask": WORDS},)),
        ((IMAGE,), ({"image": BATCHES}, {"image": span((8, 3, 224, 224), (8, 3, 224, 224), (9, 3, 224, 224))})),
        ((SIZES, SCALAR), ({"sizes": span((2, 2), (4, 4), (8, 8)), "steps": span((1,), (2,), (3,))},)),
        ((SETTLED,), ({"rate": span((16000,), (16000,), (16000,))},)),
    ],
)
def test_what_fits(inputs, profiles):
    check_profiles(inputs, profiles, "m.onnx")


@pytest.mark.parametrize(
    ("inputs", "profiles", "message", "remedy"),
    [
        (
            (IMAGE,),
            (),
            r"input image: float32\[Nx3x224x224\] is dynamic",
            "--min-shapes, --opt-shapes, --max-shapes image:1x3x224x224",
        ),
        ((IDS, MASK), ({"ids": WORDS},), r"input mask: int64\[batchxseq\] is dynamic", "mask:1x1"),
        ((IMAGE,), ({"image": BATCHES}, {}), "optimization profile 2 has no shapes", "add image:1x3x224x224"),
        ((IMAGE,), ({"imgae": BATCHES},), "'imgae': no such input", "did you mean 'image'"),
        ((FIXED,), ({"q": WORDS},), "'q': no such input", "inputs: fixed"),
        ((IMAGE,), ({"image": WORDS},), "have rank 2, the model's input is image", "4 dimensions"),
        (
            (IMAGE,),
            ({"image": span((1, 3, 112, 224), (1, 3, 224, 224), (1, 3, 448, 224))},),
            r"dimension 2 is fixed to 224 in the model, the profile says 112\.\.448",
            "use 224",
        ),
        (
            (FIXED,),
            ({"fixed": span((1, 9), (1, 9), (1, 9))},),
            r"dimension 1 is fixed to 8 in the model, the profile says 9\.\.9",
            "8",
        ),
        (
            (IDS, MASK),
            ({"ids": WORDS, "mask": span((1, 8), (4, 64), (8, 256))},),
            r"dimension 'seq' is 8\.\.64\.\.128 for input 'ids' but 8\.\.64\.\.256 for 'mask'",
            "same range",
        ),
        (
            (SETTLED,),
            ({"rate": span((8000,), (8000,), (16000,))},),
            "is fixed, and a range is given",
            "leave 'rate' out",
        ),
        ((SIZES,), (), "the values of input 'sizes' determine shapes", "make 'sizes' a constant"),
        ((SIZES,), ({"sizes": span((1,), (1,), (1,))},), "are 1 values, the input holds 2", "give 2 values"),
        ((SCALAR,), ({"steps": span((1, 1), (1, 1), (1, 1))},), "are 2 values, the input holds 1", "give 1 values"),
    ],
)
def test_what_does_not(inputs, profiles, message, remedy):
    with pytest.raises(InputError, match=message) as caught:
        check_profiles(inputs, profiles, "m.onnx")
    assert caught.value.message.startswith("m.onnx: ")
    assert remedy in caught.value.remedy
