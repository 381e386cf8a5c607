"""The node that an error in 16 bits comes from, on graphs that onnxruntime runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from models import model, normal, save

from trtpipe.config.settings import Settings
from trtpipe.reference.error_origin import Origin, error_origin

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

WEIGHT = normal(8, 8)
#: The same in both precisions: a layer, whose values an offset takes away from 0, and a normalization.
BODY = """
    h = MatMul({x}, w)
    m = Mul(h, small)
    s = Add(m, offset)
    n = LayerNormalization<axis=-1, epsilon=1e-12>(s, ones)
    z = MatMul(n, w)
"""


def network(offset: float, dtype: type = np.float32, *, x: str = "x") -> onnx.ModelProto:
    half = dtype is np.float16
    head = "(float[N,8] x) => (float[N,8] y) {" + (" h0 = Cast<to=10>(x)" if half else "")
    body = BODY.format(x="h0" if half else x) + (" y = Cast<to=1>(z) }" if half else " y = Identity(z) }")
    constants = {"w": WEIGHT, "small": np.float32(1e-3), "offset": np.float32(offset), "ones": np.ones(8, np.float32)}
    cast: dict[str, Any] = {name: np.asarray(value, dtype) for name, value in constants.items()}
    return model(head + body, **cast)


def origin(folder: Path, offset: float) -> Origin | None:
    exact, rounded = save(network(offset), folder / "a.onnx"), save(network(offset, np.float16), folder / "b.onnx")
    return error_origin(exact, rounded, "y", {"x": normal(4, 8)}, folder, Settings(cache_dir=folder))


def test_what_a_normalization_takes_from_values_far_from_0(tmp_path: Path) -> None:
    found = origin(tmp_path, 4.0)
    assert found is not None
    assert found.op_type == "LayerNormalization"
    assert found.before < 2**-10 < 0.1 < found.after
    assert repr(found.node) in str(found)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_an_error_that_adds_up_has_no_origin(tmp_path: Path) -> None:
    assert origin(tmp_path, 0.0) is None


def test_an_output_that_is_not_in_both_has_none(tmp_path: Path) -> None:
    exact, rounded = save(network(4.0), tmp_path / "a.onnx"), save(network(4.0, np.float16), tmp_path / "b.onnx")
    assert error_origin(exact, rounded, "q", {"x": normal(4, 8)}, tmp_path, Settings(cache_dir=tmp_path)) is None


def test_rows_that_are_small_beside_others_do_not_count(tmp_path: Path) -> None:
    """A row of noise is off by its own size, and nothing reads it but what reads the large ones too."""
    body = "(float[2,8] x) => (float[2,8] y) {{ {} s = Add(h, c) t = Sub(s, c) y = {}(t) }}"
    constant = np.array([[0.0], [4.0]], np.float32) * np.ones((1, 8), np.float32)
    exact = save(model(body.format("h = Identity(x)", "Identity"), c=constant), tmp_path / "a.onnx")
    half = body.format("h = Cast<to=10>(x)", "Cast<to=1>")
    rounded = save(model(half, c=constant.astype(np.float16)), tmp_path / "b.onnx")
    feed = {"x": normal(2, 8) * np.array([[1.0], [1e-3]], np.float32)}
    assert error_origin(exact, rounded, "y", feed, tmp_path, Settings(cache_dir=tmp_path)) is None
