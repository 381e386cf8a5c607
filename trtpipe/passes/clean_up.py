"""The plain form that lowering understands: every constant an initializer, no functions, no dead nodes, known types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_ir.passes import common

from trtpipe.passes.graph_pass import Borrowed, run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.preflight.onnx_io import load_model

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

#: Before this version of the format every initializer had to be an input too.
_FREE_INITIALIZERS = 4


def clean_up(model: ir.Model) -> None:
    """Bring ``model`` into the plain form, in place; a model that has it stays as it is."""
    run_passes(
        model,
        [
            Borrowed(common.InlinePass(), "inline_functions"),
            Borrowed(common.RemoveInitializersFromInputsPass(), "remove_initializers_from_inputs"),
            Borrowed(common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0), "lift_constants"),
            Borrowed(common.RemoveUnusedNodesPass(), "remove_unused_nodes"),
            Borrowed(common.RemoveUnusedOpsetsPass(), "remove_unused_opsets"),
            Borrowed(common.NameFixPass(), "unique_names"),  # branches may share names; statistics go by name
            InferTypes(),
        ],
    )
    model.ir_version = max(model.ir_version, _FREE_INITIALIZERS)


def load_clean(path: Path) -> ir.Model:
    """The model at ``path`` in the plain form; raises what ``load_model`` raises."""
    model = load_model(path)
    clean_up(model)
    return model
