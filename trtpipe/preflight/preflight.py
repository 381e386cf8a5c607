"""The look at a model before anything native opens it: budgets, contradictions, circles, unknown operators.

Measured without it: a file of 1.9 kB with functions that call each other twice hangs the ONNX checker, onnxruntime
and TensorRT-RTX; a function that calls itself kills TensorRT-RTX; a chain of 200,000 nodes takes it 20 seconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.errors import InputError
from trtpipe.preflight.budgets import Budgets, Garbled, Refused, TooLarge
from trtpipe.preflight.functions import check_functions
from trtpipe.preflight.graphs import Scopes
from trtpipe.preflight.operators import Operators
from trtpipe.preflight.reading import Reader
from trtpipe.preflight.wire import FileBytes

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.preflight.model import External, Model

_DEFAULT = Budgets()
#: The version of the format since which a model names its opsets.
_OPSETS_SINCE = 3


@dataclass(frozen=True)
class Cleared:
    """A model that passed.

    Attributes:
        nodes: with every function call written out.
        external: the tensors whose values lie in other files.
    """

    nodes: int
    external: tuple[External, ...]


def check_model(path: Path, handle: int, *, name: Path | None = None, budgets: Budgets = _DEFAULT) -> Cleared:
    """Look at the ``.onnx`` file that is open as ``handle``; values are neither read nor kept.

    Args:
        path: what messages name, unless ``name`` is given.

    Raises:
        InputError: the model is beyond a budget, broken, contradicts itself, or uses operators nobody knows.
    """
    size = os.fstat(handle).st_size
    try:
        if size > budgets.file_bytes:
            raise TooLarge(f"it has {size} bytes; protobuf holds less than 2 GiB", "save it with external data")
        model = Reader(budgets).model((FileBytes(handle), 0, size))
        nodes = check_functions(model, budgets)
        _check_meaning(model)
    except Refused as refusal:
        raise InputError(f"{name or path}: {refusal.lead}{refusal.message}", refusal.remedy) from refusal
    return Cleared(nodes, tuple(model.external))


def _check_meaning(model: Model) -> None:
    if model.graph is None or not (model.graph.nodes or model.graph.outputs):
        raise Garbled("it holds no graph")
    if not model.opsets and model.ir_version >= _OPSETS_SINCE:
        raise Garbled("it names no opset")
    operators, scopes = Operators(model), Scopes()
    operators.check(model.graph, model.opsets)
    scopes.check(model.graph)
    for function in model.functions:
        operators.check(function.graph, {**model.opsets, **function.opsets})
        scopes.check(function.graph, f"function {function.name!r}")
