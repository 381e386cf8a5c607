"""Forms that TensorRT's importer does not take against what they are written as: both run by onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, normal, run

from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.missing_forms import WriteMissingForms


def written(proto: onnx.ModelProto) -> onnx.ModelProto:
    loaded = ir.serde.deserialize_model(proto)
    clean_up(loaded)
    run_passes(loaded, (WriteMissingForms(),))
    clean_up(loaded)
    return ir.serde.serialize_model(loaded)


def operators(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


IMAGE = "(float[1,2,12,10] x) => (float[N,C,H,W] y) "


@pytest.mark.parametrize(
    "attributes",
    [
        'antialias=1, mode="linear"',
        'antialias=1, mode="cubic"',
        'antialias=1, mode="linear", coordinate_transformation_mode="align_corners"',
        'antialias=1, mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1',
    ],
)
@pytest.mark.parametrize(
    ("name", "values", "place"),
    [
        ("scales", np.array([1, 1, 0.5, 0.4], np.float32), "(x, , s)"),
        ("sizes", np.array([1, 2, 7, 4]), "(x, , , s)"),
        ("larger", np.array([1, 2, 24, 5]), "(x, , , s)"),
    ],
)
def test_resizing_without_aliases(attributes: str, name: str, values: np.ndarray, place: str) -> None:
    proto = model(f"{IMAGE} {{ y = Resize<{attributes}>{place} }}", opset=18, s=values)
    result, feed = written(proto), {"x": normal(1, 2, 12, 10)}
    assert operators(result) == {"MatMul"}
    np.testing.assert_allclose(run(result, feed)["y"], run(proto, feed)["y"], rtol=1e-5, atol=1e-5)


def test_resizing_of_some_axes() -> None:
    proto = model(
        f'{IMAGE} {{ y = Resize<antialias=1, mode="linear", axes=[3]>(x, , s) }}',
        opset=18,
        s=np.array([0.3], np.float32),
    )
    result, feed = written(proto), {"x": normal(1, 2, 12, 10)}
    assert operators(result) == {"MatMul"}
    np.testing.assert_allclose(run(result, feed)["y"], run(proto, feed)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", ['mode="linear"', 'antialias=1, mode="linear"'])
def test_resizing_that_engines_do_or_that_has_open_sizes_stays(text: str) -> None:
    image = IMAGE.replace("12,10", "A,B") if "antialias" in text else IMAGE
    scales = np.array([1, 1, 0.5, 0.5], np.float32)
    assert operators(written(model(f"{image} {{ y = Resize<{text}>(x, , s) }}", opset=18, s=scales))) == {"Resize"}


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", ([3, 4], [4, 5])),
        ("bij,bkj", ([2, 3, 4], [2, 5, 4])),
        ("i,j->ji", ([3], [4])),
        ("ij->", ([3, 4],)),
        ("...ij,...jk", ([2, 3, 4], [2, 4, 5])),
        ("...ij,jk->...ki", ([6, 2, 3, 4], [4, 5])),
        ("b...,...->b...", ([2, 3, 4], [3, 4])),
        ("...i,...i->...", ([2, 1, 4], [1, 3, 4])),
        ("bii->bi", ([2, 3, 3],)),
        ("ii", ([3, 3],)),
        ("iji,jj->ji", ([3, 2, 3], [2, 2])),
        ("iii->i", ([3, 3, 3],)),
    ],
)
@pytest.mark.parametrize("opset", [12, 13])
def test_einsum_of_integers(equation: str, shapes: tuple[list[int], ...], opset: int) -> None:
    names = [f"x{i}" for i in range(len(shapes))]
    node = onnx.helper.make_node("Einsum", names, ["y"], equation=equation)
    inputs = [onnx.helper.make_tensor_value_info(n, 6, shape) for n, shape in zip(names, shapes, strict=True)]
    graph = onnx.helper.make_graph([node], "g", inputs, [onnx.helper.make_tensor_value_info("y", 6, None)])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    feed = {
        n: np.random.default_rng(i).integers(-20000, 20000, shapes[i]).astype(np.int32) for i, n in enumerate(names)
    }
    result = written(proto)
    assert "Einsum" not in operators(result)
    np.testing.assert_array_equal(run(result, feed)["y"], np.einsum(equation, *feed.values()).astype(np.int32))


@pytest.mark.parametrize("text", ["(int32[N,N] x) => (int32[N] y)", "(int32[2,3] x, int32[3] v) => (int32[3] y)"])
def test_einsum_of_open_diagonals_or_uneven_ellipses_stays(text: str) -> None:
    call = 'Einsum<equation="...i,...i">(x, v)' if "v" in text else 'Einsum<equation="ii->i">(x)'
    assert operators(written(model(f"{text} {{ y = {call} }}", opset=13))) == {"Einsum"}


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_scattering_with_a_reduction(reduction: str, axis: int) -> None:
    places = np.random.default_rng(0).integers(-5, 5, [2, 5, 9] if axis < 0 else [2, 9, 5])
    proto = model(
        f'(float[2,5,5] d, float{list(places.shape)} u) => (float[2,5,5] y) '
        f'{{ y = ScatterElements<axis={axis}, reduction="{reduction}">(d, p, u) }}', opset=18, p=places,
    )  # fmt: skip
    result, feed = written(proto), {"d": normal(2, 5, 5), "u": normal(*places.shape)}
    assert "ScatterElements" not in operators(result)
    np.testing.assert_allclose(run(result, feed)["y"], run(proto, feed)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("updates", [1, 4])
@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_an_element_that_all_updates_hit_still_counts(reduction: str, updates: int) -> None:
    proto = model(
        f"(float[2,5] d, float[2,{updates}] u) => (float[2,5] y) "
        f'{{ y = ScatterElements<axis=1, reduction="{reduction}">(d, p, u) }}', opset=18, p=np.full([2, updates], 3),
    )  # fmt: skip
    result = written(proto)
    for sign in (-1, 1):
        feed = {"d": normal(2, 5), "u": np.float32(5 * sign) + normal(2, updates)}
        np.testing.assert_allclose(run(result, feed)["y"], run(proto, feed)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["AveragePool<count_include_pad=1, ", "AveragePool<", "MaxPool<"])
@pytest.mark.parametrize(("window", "strides"), [([300, 300], [300, 300]), ([7, 8], [7, 8]), ([9, 7], [3, 1])])
def test_pooling_with_a_window_larger_than_the_map(kind: str, window: list[int], strides: list[int]) -> None:
    proto = model(
        "(float[N,3,7,7] x) => (float[N,3,H,W] y) "
        f"{{ y = {kind} kernel_shape={window}, strides={strides}, ceil_mode=1>(x) }}"
    )
    result, feed = written(proto), {"x": normal(2, 3, 7, 7)}
    assert operators(result) == {f"Global{kind.partition('<')[0]}"}
    np.testing.assert_allclose(run(result, feed)["y"], run(proto, feed)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "attributes",
    ["kernel_shape=[7, 7]", "kernel_shape=[8, 8], pads=[1, 1, 1, 1], ceil_mode=1", "kernel_shape=[8, 7], ceil_mode=1",
     "kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1"],
)  # fmt: skip
def test_other_pooling_stays(attributes: str) -> None:
    proto = model(f"(float[N,3,7,7] x) => (float[N,3,H,W] y) {{ y = AveragePool<{attributes}>(x) }}")
    assert operators(written(proto)) == {"AveragePool"}


@pytest.mark.parametrize(
    ("shape", "attributes", "opset", "inputs"),
    [
        ([2, 12, 1], "", 17, "x"),
        ([2, 12, 1], "<onesided=1>", 17, "x, shorter"),
        ([2, 12, 2], "<inverse=1>", 20, "x"),
        ([2, 9, 5, 1], "<onesided=1>", 20, "x, , second"),
        ([2, 9, 5, 2], "<axis=2>", 17, "x"),
        ([3, 8, 4, 2], "", 20, "x, shorter, second"),
    ],
)
def test_a_fourier_transform(shape: list[int], attributes: str, opset: int, inputs: str) -> None:
    sizes = ",".join(["N", *map(str, shape[1:])])
    given = {"shorter": np.array(6), "second": np.array(1)}
    proto = model(f"(float[{sizes}] x) => (float y) {{ y = DFT{attributes}({inputs}) }}", opset=opset, **given)
    result, feed = written(proto), {"x": normal(*shape)}
    assert "DFT" not in operators(result)
    np.testing.assert_allclose(run(result, feed)["y"], run(proto, feed)["y"], rtol=1e-4, atol=1e-4)


def test_a_fourier_transform_of_open_length_stays() -> None:
    proto = model("(float[2,N,1] x) => (float[2,N,2] y) { y = DFT(x) }")
    assert "DFT" in operators(written(proto))
