from __future__ import annotations

import pytest

from trtpipe.backends.trt.shapes import NetworkInput, check_shapes
from trtpipe.config.profile import ShapeRange
from trtpipe.errors import InputError

IDS = NetworkInput("ids", (-1, -1), ("batch", "seq"), holds_shape=False)
MASK = NetworkInput("mask", (-1, -1), ("batch", "seq"), holds_shape=False)
IMAGE = NetworkInput("image", (-1, 3, 224, 224), ("N", None, None, None), holds_shape=False)
FIXED = NetworkInput("fixed", (1, 8), (None, None), holds_shape=False)
SIZES = NetworkInput("sizes", (2,), (None,), holds_shape=True)
SCALAR = NetworkInput("steps", (), (), holds_shape=True)
SETTLED = NetworkInput("rate", (), (), holds_shape=False)


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
    check_shapes(inputs, profiles, "m.onnx")


@pytest.mark.parametrize(
    ("inputs", "profiles", "message", "remedy"),
    [
        ((IMAGE,), (), r"input 'image' \(Nx3x224x224\) is dynamic", "--min-shapes image:1x3x224x224"),
        ((IDS, MASK), ({"ids": WORDS},), "input 'mask' .batchxseq. is dynamic", "--min-shapes mask:1x1"),
        ((IMAGE,), ({"image": BATCHES}, {}), "input 'image'", "--min-shapes"),
        ((IMAGE,), ({"imgae": BATCHES},), "'imgae', which is no input", "did you mean 'image'"),
        ((IMAGE,), ({"IMAGE": BATCHES},), "'IMAGE', which is no input", "did you mean 'image'"),
        ((FIXED,), ({"q": WORDS},), "'q', which is no input", "inputs: fixed"),
        ((IMAGE,), ({"image": WORDS},), "have 2 dimensions, the model has 4", "4 dimensions"),
        (
            (IMAGE,),
            ({"image": span((1, 3, 112, 224), (1, 3, 224, 224), (1, 3, 448, 224))},),
            "dimension 2 is 112 to 448, but the model fixes it at 224",
            "write 224",
        ),
        ((FIXED,), ({"fixed": span((1, 9), (1, 9), (1, 9))},), "dimension 1 is 9, but the model fixes it at 8", "8"),
        (
            (IDS, MASK),
            ({"ids": WORDS, "mask": span((1, 8), (4, 64), (8, 256))},),
            "dimension 'seq' is 8/64/128 in 'ids' but 8/64/256 in 'mask'",
            "same min, opt and max",
        ),
        ((SETTLED,), ({"rate": span((8000,), (8000,), (16000,))},), "have 1 dimensions, the model has 0", "give 0"),
        ((SIZES,), (), "the values of input 'sizes' determine shapes", "make 'sizes' a constant"),
        ((SIZES,), ({"sizes": span((1,), (1,), (1,))},), "are 1 values, the input holds 2", "give 2 values"),
        ((SCALAR,), ({"steps": span((1, 1), (1, 1), (1, 1))},), "are 2 values, the input holds 1", "give 1 values"),
    ],
)
def test_what_does_not(inputs, profiles, message, remedy):
    with pytest.raises(InputError, match=message) as caught:
        check_shapes(inputs, profiles, "m.onnx")
    assert caught.value.message.startswith("m.onnx: ")
    assert remedy in caught.value.remedy
