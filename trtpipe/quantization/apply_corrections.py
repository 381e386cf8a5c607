"""Apply a plan to a copy of the graph it was made for: its corrections, then its Q/DQ pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.calibration.corrections import unpacked
from trtpipe.config.formats import FP32
from trtpipe.passes.constants import array_of
from trtpipe.passes.graph_pass import GraphPass, PassResult, run_passes
from trtpipe.quantization.bias_correction import CorrectBias, correctable
from trtpipe.quantization.plan import bound
from trtpipe.quantization.qdq import InsertQDQ, scale_loss
from trtpipe.quantization.smooth_quant import Smooth

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.quantization.plan import QuantizationPlan

#: dB by which the scales' format may raise the squared error of a weight.
_MOST_LOSS = 1.0


def apply_corrections(model: ir.Model, plan: QuantizationPlan, *, biases: bool = True) -> QuantizationPlan:
    """Smooth activations and correct biases, in place; in float32 smoothing changes nothing, up to rounding.

    All smoothing is applied, whatever is kept in higher precision: it is exact, and biases were corrected behind it.
    Only biases of points are corrected.

    Args:
        model: a copy of the graph that was planned.
        biases: whether they are corrected.

    Returns:
        The plan of the graph as it is now, without nodes whose weights need scales that their format does not hold.
    """
    corrections = plan.corrections
    if corrections.smoothing:
        smooth = Smooth(corrections.smoothing, plan.smoothable)
        run_passes(model, [smooth])
        plan = plan.smoothed({name: corrections.smoothing[name] for name in smooth.smoothed})
    plan = plan.keep(_too_small(model, plan))
    if biases and corrections.biases:
        known = correctable(model, plan)
        found = {name: unpacked(text) for name, text in corrections.biases.items()}
        run_passes(model, [CorrectBias({name: bias for name, bias in found.items() if known.get(name) == bias.size})])
    return plan


class WritePlan(GraphPass):
    """Write a plan into a copy of the graph that was planned: first its corrections, then its Q/DQ pairs.

    Raises:
        StageError: the graph's opset has no Q/DQ of this format.
    """

    name = "write_plan"

    def __init__(self, plan: QuantizationPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> PassResult:
        """Correct, then insert the pairs that the corrected plan has."""
        corrections = self._plan.corrections
        (written,) = run_passes(model, [InsertQDQ(apply_corrections(model, self._plan))])
        modified = written.modified or bool(corrections.smoothing or corrections.biases)
        return PassResult(self.name, modified=modified, decisions=written.decisions)


def _too_small(model: ir.Model, plan: QuantizationPlan) -> dict[str, str]:
    """The points whose weights need scales so small that their format would lose digits."""
    found: dict[str, str] = {}
    for point, node in bound(model, plan.points) if plan.scales is not FP32 else ():
        kernel = None if point.weight is None else array_of(node.inputs[point.weight])
        axis = point.axis if plan.format.granularity == "channel" else None
        if kernel is not None and scale_loss(kernel, axis, plan.format, plan.scales) > _MOST_LOSS:
            found[point.node] = f"its weight is so small that its scales would lose digits in {plan.scales.storage}"
    return found
