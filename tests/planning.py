"""Plans for tests: of a graph, with ranges, in one step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from trtpipe.config.formats import FP32, Precision
from trtpipe.config.stage_settings import QuantizationSettings
from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.graph_pass import GraphPass
from trtpipe.quantization.plan import plan
from trtpipe.quantization.qdq import InsertQDQ

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.config.formats import Format
    from trtpipe.config.recipe import WeightMethod
    from trtpipe.passes.graph_pass import PassResult
    from trtpipe.quantization.plan import QuantizationPlan


def settings(
    precision: str = "int8", keep: tuple[str, ...] = (), weights: WeightMethod = "max", **more: object
) -> QuantizationSettings:
    """What to quantize, and how."""
    return QuantizationSettings.model_validate(
        {"precision": Precision(precision), "keep": keep, "weights": weights, **more}
    )


def prepared(proto: onnx.ModelProto) -> ir.Model:
    """A graph whose shapes are inferred, in the plain form, as after simplification."""
    loaded = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    clean_up(loaded)
    return loaded


def planned(proto: onnx.ModelProto, keep: tuple[str, ...] = (), **more: object) -> QuantizationPlan:
    """The plan of a graph as after simplification."""
    return plan(prepared(proto), settings(keep=keep, **more))


class Quantize(GraphPass):
    """Plans a graph with given ranges, and writes the plan."""

    name = "quantize"

    def __init__(
        self,
        form: Format,
        amax: Mapping[str, float],
        keep: tuple[str, ...] = (),
        weights: WeightMethod = "max",
        scales: Format = FP32,
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        self._form, self._scales = form, scales
        self._amax, self._reasons = amax, reasons
        self._settings = settings(keep=keep, weights=weights)

    def requires(self, model: ir.Model) -> None:
        """As the writer says."""
        InsertQDQ(self._plan(model)).requires(model)

    def call(self, model: ir.Model) -> PassResult:
        """Plan and write."""
        return InsertQDQ(self._plan(model)).call(model)

    def _plan(self, model: ir.Model) -> QuantizationPlan:
        found = replace(plan(model, self._settings), format=self._form, scales=self._scales)
        return found.with_ranges(self._amax, self._reasons)
