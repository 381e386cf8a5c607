"""The table of formats against definitions that are written down elsewhere, and that what reads it takes a new row."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from planning import Quantize

from trtpipe.autocast.convert import CastPrecision
from trtpipe.calibration.methods import quantizer_of
from trtpipe.config.formats import (
    BF16,
    DEFAULT_QUANTIZED,
    FORMATS,
    FP8,
    FP16,
    FP32,
    FULL_PRECISION,
    HALF_FORMATS,
    INT4,
    INT8,
    NVFP4,
    Format,
    Precision,
    coarser,
    find_format,
    is_quantized,
)
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.target import find_target
from trtpipe.engine.agreement import SATISFIED_BY
from trtpipe.engine.report import BITS
from trtpipe.errors import InternalError
from trtpipe.quantization.qdq import quantize_weight

FLOATS = [form for form in FORMATS if form.kind == "float"]
#: A format of 8 bits that no GPU has: E5M2 as ml_dtypes codes it.
MADE_UP = replace(
    FP8, name="made_up", exponent=5, mantissa=2, largest=57344.0, storage="float8_e5m2", onnx="FLOAT8E5M2"
)


def every_value(form: Format) -> np.ndarray:
    """All finite values of a format of at most 16 bits, ascending, as ml_dtypes and numpy decode its codes."""
    codes = np.arange(1 << form.bits, dtype=np.uint8 if form.bits <= 8 else np.uint16)
    values = codes.view(form.dtype).astype(np.float64)
    return np.unique(values[np.isfinite(values)])


class TestNumbers:
    """From IEEE 754, arXiv:2209.05433 (E4M3), the OCP Microscaling specification (E2M1) and ONNX's changelog."""

    @pytest.mark.parametrize(
        ("form", "exponent", "mantissa", "largest", "normal"),
        [
            (FP32, 8, 23, 3.4028234663852886e38, 1.1754943508222875e-38),
            (FP16, 5, 10, 65504, 6.103515625e-05),
            (BF16, 8, 7, 3.3895313892515355e38, 1.1754943508222875e-38),
            (FP8, 4, 3, 448, 0.015625),
            (NVFP4, 2, 1, 6, 1),
        ],
    )
    def test_floats(self, form: Format, exponent: int, mantissa: int, largest: float, normal: float) -> None:
        assert (form.exponent, form.mantissa, form.largest, form.normal) == (exponent, mantissa, largest, normal)

    @pytest.mark.parametrize(("form", "largest"), [(INT8, 127), (INT4, 7)])
    def test_integers_are_symmetric(self, form: Format, largest: float) -> None:
        assert (form.kind, form.largest) == ("integer", largest)
        assert ml_dtypes.iinfo(form.dtype).max == largest

    @pytest.mark.parametrize("form", FLOATS, ids=str)
    def test_floats_are_what_numpy_and_ml_dtypes_know(self, form: Format) -> None:
        known = ml_dtypes.finfo(form.dtype)
        assert 1 + form.exponent + form.mantissa == form.bits
        assert known.nmant == form.mantissa
        assert float(known.max) == form.largest
        assert float(known.smallest_normal) == form.normal

    @pytest.mark.parametrize("form", FORMATS, ids=str)
    def test_storage_is_onnx_s_element_type(self, form: Format) -> None:
        dtype = ir.DataType[form.onnx]
        assert dtype.numpy() == form.dtype
        assert round(dtype.itemsize * 8) == form.bits
        assert onnx.TensorProto.DataType.Value(form.onnx) == int(dtype)

    @pytest.mark.parametrize("form", [FP16, BF16], ids=str)
    def test_rounding_and_overflow_are_those_of_the_type(self, form: Format) -> None:
        values = np.random.default_rng(0).uniform(1, 2, 10_000).astype(np.float32)
        errors = np.abs(values.astype(form.dtype).astype(np.float64) - values) / values
        assert form.rounding / 2 < errors.max() <= form.rounding
        with np.errstate(over="ignore"):
            below, above = np.float32(form.overflow) * np.array([1 - 2.0**-20, 1], np.float32)
            assert np.isfinite(below.astype(form.dtype))
            assert np.isinf(above.astype(form.dtype))

    @pytest.mark.parametrize(("form", "opset"), [(INT8, 13), (FP8, 19), (INT4, 21), (NVFP4, 23)])
    def test_the_opset_is_the_first_whose_dequantizer_takes_it(self, form: Format, opset: int) -> None:
        """Per axis since 13, which is what weights need."""
        word = f"tensor({form.onnx.lower()})"

        def takes(version: int) -> bool:
            schema = onnx.defs.get_schema("DequantizeLinear", version)
            types = schema.inputs[0].types
            return word in types and "axis" in schema.attributes

        assert form.opset == opset
        assert takes(opset)
        assert not takes(opset - 1)

    def test_bfloat16_convolutions_came_with_opset_22(self) -> None:
        assert BF16.opset == 22
        assert "tensor(bfloat16)" in onnx.defs.get_schema("Conv", 22).inputs[0].types
        assert "tensor(bfloat16)" not in onnx.defs.get_schema("Conv", 21).inputs[0].types

    @pytest.mark.parametrize(
        ("form", "first"),
        [(FP16, "sm75"), (INT8, "sm75"), (BF16, "sm80"), (INT4, "sm80"), (FP8, "sm89"), (NVFP4, "sm100")],
    )
    def test_capabilities_are_those_of_nvidia_s_support_matrix(self, form: Format, first: str) -> None:
        assert form.capability == find_target(first).capability

    @pytest.mark.parametrize(("form", "block", "scale"), [(NVFP4, 16, "float8_e4m3fn"), (INT8, None, "float32")])
    def test_scales(self, form: Format, block: int | None, scale: str) -> None:
        assert (form.block, form.scale) == (block, scale)

    def test_blocks_have_a_size_and_nothing_else_has(self) -> None:
        assert all((form.granularity == "block") == (form.block is not None) for form in FORMATS)


class TestTable:
    def test_names_are_distinct_and_found(self) -> None:
        words = [word for form in FORMATS for word in {form.name, form.storage}]
        assert len(words) == len(set(words))
        assert all(find_format(word) is form for form in FORMATS for word in (form.name, form.storage, form.label))
        assert find_format("int64") is None

    def test_labels_are_what_records_of_lowerings_hold(self) -> None:
        assert [form.label for form in (FP32, FP16, BF16, FP8, INT8)] == [
            "float32",
            "float16",
            "bfloat16",
            "fp8",
            "int8",
        ]
        assert [is_quantized(word) for word in ("int8", "fp8", "float16", "float32", "unknown")] == [1, 1, 0, 0, 0]

    def test_half_formats_have_16_bits(self) -> None:
        assert HALF_FORMATS == (FP16, BF16)

    @pytest.mark.parametrize("form", FORMATS, ids=str)
    def test_engine_reports_know_every_row(self, form: Format) -> None:
        assert {BITS[word] for word in form.engine} == {form.bits}
        if form is not FP32:
            assert SATISFIED_BY[form.label] >= set(form.engine)

    def test_a_16_bit_node_is_served_by_narrower_kernels_and_not_the_other_way(self) -> None:
        assert SATISFIED_BY["float16"] >= {"Half", "Int8", "FP8"}
        assert SATISFIED_BY["int8"] == {"Int8", "INT8"}
        assert "Half" not in SATISFIED_BY["bfloat16"]


class TestPrecisions:
    @pytest.mark.parametrize(
        ("name", "quantized", "half", "calibrated", "compared"),
        [
            ("fp32", None, None, False, False),
            ("fp16", None, FP16, False, False),
            ("bf16", None, BF16, False, False),
            ("int8", INT8, None, True, False),
            ("fp8", FP8, None, True, False),
            ("best", INT8, FP16, True, True),
        ],
    )
    def test_rows(
        self, name: str, quantized: Format | None, half: Format | None, calibrated: bool, compared: bool
    ) -> None:
        row = Precision(name)
        assert (row.quantized, row.half, row.calibrated, row.compared) == (quantized, half, calibrated, compared)
        assert row.mixed is (name == "best")
        assert row.formats == tuple(form for form in (quantized, half) if form is not None)

    def test_there_are_no_others(self) -> None:
        assert {str(each) for each in Precision} == {"fp32", "fp16", "bf16", "int8", "fp8", "best"}
        assert (str(FULL_PRECISION), str(DEFAULT_QUANTIZED)) == ("fp32", "int8")

    def test_a_profile_keeps_the_word_and_gives_the_row(self) -> None:
        profile = DeploymentProfile.model_validate({"precision": "best"})
        assert profile.precision is Precision.best
        assert profile.to_dict()["precision"] == "best"
        assert f"{profile.precision}" == "best"

    def test_what_is_not_quantized_has_no_quantized_format(self) -> None:
        assert Precision.fp8.quantized_format is FP8
        with pytest.raises(InternalError):
            _ = Precision.fp16.quantized_format

    def test_targets_compute_in_what_they_have_all_formats_of(self) -> None:
        able = {
            str(each): {str(p) for p in Precision if find_target(each).computes(p)} for each in ("sm75", "sm86", "sm89")
        }
        assert able == {
            "sm75": {"fp32", "fp16", "int8", "best"},
            "sm86": {"fp32", "fp16", "int8", "best", "bf16"},
            "sm89": {"fp32", "fp16", "int8", "best", "bf16", "fp8"},
        }


@pytest.mark.parametrize(
    ("precision", "half", "expected"),
    [
        ("fp32", None, "fp32"),
        ("fp32", FP16, "fp16"),
        ("fp16", BF16, "bf16"),
        ("bf16", FP16, "bf16"),
        ("int8", BF16, "int8"),
    ],
)
def test_the_wider_tolerance_of_two(precision, half, expected):
    assert coarser(Precision(precision), half) == expected


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", "fp16"), ("fp16", "int8"), ("bf16", "int8"), ("int8", "int8")]
)
def test_what_rounds_to_8_bits_itself_may_differ_by_some_steps(precision, expected):
    assert coarser(Precision(precision), None, steps=True) == expected


class TestANewRow:
    """What is claimed to work from a row alone: quantizing, expected errors, Q/DQ pairs, casts."""

    @pytest.mark.parametrize("form", [MADE_UP, FP8, NVFP4], ids=str)
    def test_the_quantizer_s_segments_are_the_values_the_type_has(self, form: Format) -> None:
        values = every_value(form)
        values = values[(values >= 0) & (values <= form.largest)]
        found = quantizer_of(form)
        edges = np.array([0, *found.edges]) * form.largest
        steps = np.array(found.steps) * form.largest
        rebuilt = [np.arange(low, high, step) for low, high, step in zip(edges[:-1], edges[1:], steps, strict=True)]
        np.testing.assert_array_equal(np.concatenate([*rebuilt, [form.largest]]), values)
        assert found.dead * form.largest == values[1] / 2

    def test_weights_become_the_nearest_value_it_has(self) -> None:
        array = np.random.default_rng(1).standard_normal((3, 40)).astype(np.float32)
        quantized, scale = quantize_weight(array, None, MADE_UP)
        assert quantized.dtype == ml_dtypes.float8_e5m2
        assert float(scale) == pytest.approx(np.abs(array).max() / 57344, rel=1e-6)
        values = every_value(MADE_UP) * float(scale)
        nearest = np.abs(array[..., None] - values).min(axis=-1)
        np.testing.assert_allclose(np.abs(quantized.astype(np.float64) * float(scale) - array), nearest, atol=1e-7)

    def test_pairs_are_written_in_it(self) -> None:
        model = product()
        Quantize(MADE_UP, {"x": 3.0}).call(model)
        types = {
            node.inputs[2].dtype for node in model.graph if node.op_type.endswith("quantizeLinear") and node.inputs[2]
        }
        stored = {value.dtype for value in model.graph.initializers.values()}
        assert ir.DataType.FLOAT8E5M2 in stored | types
        assert ir.DataType.FLOAT8E4M3FN not in stored | types

    def test_its_pairs_are_recorded_under_its_name(self) -> None:
        [decision] = Quantize(MADE_UP, {"x": 3.0}).call(product()).decisions
        assert decision.precision == "made_up"

    def test_an_opset_it_does_not_know_is_refused(self) -> None:
        later = replace(MADE_UP, opset=99)
        with pytest.raises(Exception, match="made_up needs 99"):
            Quantize(later, {"x": 3.0}).requires(product())

    @pytest.mark.parametrize(("largest", "lowered"), [(65504.0, True), (1.0, False)])
    def test_casts_go_to_it_where_its_largest_value_allows(self, largest: float, lowered: bool) -> None:
        model = product()
        [decision] = CastPrecision(replace(FP16, name="made_up", largest=largest)).call(model).decisions
        types = {node.outputs[0].dtype for node in model.graph if node.op_type == "MatMul"}
        assert types == {ir.DataType.FLOAT16 if lowered else ir.DataType.FLOAT}
        assert decision.precision == ("float16" if lowered else "float32")


def product() -> ir.Model:
    """``y = x @ w``, with types."""
    graph = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 19]> g (float[2,4] x) => (float[2,3] y) <float[4,3] w> {y = MatMul(x, w)}'
    ).graph
    weight = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
    del graph.value_info[:]
    graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    graph.node[0].name = "product"
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    return ir.from_proto(proto)
