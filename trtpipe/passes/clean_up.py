"""The plain form that lowering understands: every constant an initializer, no functions, no dead nodes, known types."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from onnx_ir.passes import common

from trtpipe.passes.graph_pass import Borrowed, GraphPass, run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.unique_names import UniqueNames
from trtpipe.preflight.onnx_io import load_model

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

PLAIN_FORM: tuple[GraphPass, ...] = (
    Borrowed("inline_functions", common.InlinePass),
    Borrowed("remove_initializers_from_inputs", common.RemoveInitializersFromInputsPass),
    Borrowed("lift_constants", partial(common.LiftConstantsToInitializersPass, lift_all_constants=True, size_limit=0)),
    Borrowed("remove_unused_nodes", common.RemoveUnusedNodesPass),
    Borrowed("remove_unused_opsets", common.RemoveUnusedOpsetsPass),
    Borrowed("complete_names", common.NameFixPass),
    UniqueNames(),
    InferTypes(),
)

#: Before this version of the format every initializer had to be an input too.
_FREE_INITIALIZERS = 4


def clean_up(model: ir.Model) -> None:
    """Bring ``model`` into the plain form, in place; a model that has it stays as it is."""
    run_passes(model, PLAIN_FORM)
    model.ir_version = max(model.ir_version, _FREE_INITIALIZERS)


def load_clean(path: Path) -> ir.Model:
    """The model at ``path`` in the plain form; raises what ``load_model`` raises."""
    model = load_model(path)
    clean_up(model)
    return model
