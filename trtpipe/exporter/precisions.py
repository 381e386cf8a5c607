"""What an ONNX file has of precisions already: quantizers of other tools, and 16-bit floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.errors import StageError
from trtpipe.passes.byte_inputs import ScaleByteInputs
from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.foreign_quantizers import foreign_quantizers
from trtpipe.passes.graph_pass import node_label, run_passes
from trtpipe.passes.qoperators import SpreadQOperators
from trtpipe.passes.raise_opset import raise_opset
from trtpipe.passes.standard_quantizers import StandardQuantizers, least_opset
from trtpipe.passes.strip_quantizers import StripQuantizers
from trtpipe.passes.widen_half_formats import WidenHalfFormats, half_formats_in

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.config.formats import Format

_WORDS = ("uantize", "QLinear", "Integer", "QGemm", "NBits", "QAttention")


def is_quantized(model: ir.Model) -> bool:
    """Whether there are quantizers, or operators on quantized tensors, of any kind."""
    return any(word in node.op_type for node in model.graph.all_nodes() for word in _WORDS)


def settle_quantizers(model: ir.Model, notes: list[str], *, requantize: bool) -> ir.Model:
    """Take a model's own quantizers as TensorRT takes them, or out of it.

    Args:
        notes: what was done is added to them.
        requantize: whether they are taken out, so that the model can be calibrated anew.

    Raises:
        StageError: they are none that TensorRT takes.
    """
    if not is_quantized(model):
        if requantize:
            notes.append("nothing in the model is quantized: there was nothing to take out")
        return model
    whole = [f"{node.op_type} {node_label(node)!r}" for node in model.graph.all_nodes() if "QLinear" in node.op_type]
    clean_up(model)  # constants as initializers, and known types
    if any(result.modified for result in run_passes(model, (SpreadQOperators(), StandardQuantizers()))):
        notes.append("quantizers were written in ONNX's own operators, and biases as float constants")
        model = raise_opset(model, least_opset(model))
    if run_passes(model, (ScaleByteInputs(),))[0].modified:
        notes.append("inputs of bytes that are dequantized are scaled in floats: that is preprocessing")
    if requantize and run_passes(model, (StripQuantizers(),))[0].modified:
        notes.append("the model's quantizers were taken out: it computes in floats, with the weights that it has")
    if (reason := foreign_quantizers(model)) is not None:
        # the node that is named may be one that was written for such an operator
        of_which = f"; it has {whole[0]}{f' and {len(whole) - 1} more' if len(whole) > 1 else ''}" if whole else ""
        helps = not requantize and _can_be_stripped(model)
        raise StageError(
            f"{reason}{of_which}",
            "add --requantize, with --calib-data for int8: its quantizers are taken out, and ranges are found "
            "anew; or give the model as it was before it was quantized"
            if helps
            else "give the model as it was before it was quantized, or quantize it symmetrically",
        )
    return model


def _can_be_stripped(model: ir.Model) -> bool:
    """Whether nothing quantized would be left of a model, which is given up for the answer."""
    try:
        run_passes(model, (StripQuantizers(),))
    except StageError:
        return False
    return foreign_quantizers(model) is None


def settle_half_formats(model: ir.Model, notes: list[str], kept: Format | None) -> None:
    """Widen the 16-bit floats of a model to float32, from which any precision can be made; in place.

    Args:
        notes: what was done is added to them.
        kept: the format that stays as it is, because it is what the engine is to compute in.
    """
    wide = tuple(form for form in half_formats_in(model) if form is not kept)
    if not wide:
        return
    clean_up(model)
    run_passes(model, (WidenHalfFormats(wide),))
    given = ", ".join(form.storage for form in wide)
    notes.append(
        f"the model is in {given}: it was widened to float32, from which the precision that was asked for is made"
    )
