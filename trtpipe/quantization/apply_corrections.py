"""Apply the corrections that calibration found: before a graph is quantized, whether to judge it or to lower it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from trtpipe.calibration.corrections import Corrections
    from trtpipe.calibration.ranges import Ranges


def apply_corrections(
    model: ir.Model, ranges: Ranges, corrections: Corrections, keep: Sequence[str], left: Sequence[str] = ()
) -> dict[str, float]:
    """Even out activations and correct biases, in place; in float32 smoothing changes nothing, up to rounding.

    Args:
        keep: patterns of the nodes the user keeps high, as calibration had them.
        left: patterns of nodes that stay high besides; what only such nodes read is not corrected.

    Returns:
        Tensor -> the range it is quantized with, for all that may be quantized now.
    """
    from trtpipe.calibration.corrections import unpacked
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes
    from trtpipe.quantization.bias_correction import CorrectBias, correctable
    from trtpipe.quantization.plan import place
    from trtpipe.quantization.smooth_quant import Factors, Smooth

    amax = {name: found.amax for name, found in ranges.tensors.items()}
    read = set(place(model, (*keep, *left)).tensors) if left else None
    wanted = {
        name: Factors(unpacked(each.factors), each.inserted)
        for name, each in corrections.smoothing.items()
        if read is None or name in read
    }
    if wanted:
        smooth = Smooth(wanted, place(model, keep))
        run_passes(model, [smooth, InferTypes()])
        amax |= {new: corrections.smoothing[old].amax for old, new in smooth.renamed.items()}
    if corrections.biases:
        known = correctable(model, place(model, (*keep, *left)))
        biases = {name: unpacked(text) for name, text in corrections.biases.items()}
        run_passes(model, [CorrectBias({name: bias for name, bias in biases.items() if known.get(name) == bias.size})])
    return amax
