"""State outside of a module, in globals and closures: seen by what is a constant of its program and should not be."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from trtpipe.errors import StageError
from trtpipe.exporter.calling import Call, Tensors
from trtpipe.exporter.loading import torch
from trtpipe.exporter.places import place_of_trace
from trtpipe.exporter.state import OF_VALUES, owners_in, same_result

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMED = 3


def refuse_outside_state(
    module: torch.nn.Module, program: torch.export.ExportedProgram, call: Callable[[], Call], result: object
) -> None:
    """Raise StageError if the module remembers in a place that is no part of it: a global, a closure.

    A tensor of an earlier call is then a constant of the program, like a table that was made on import. The module is
    called with other inputs and again with the same ones: what it returns for those must not change. Only a program
    with such constants costs these two calls.

    Args:
        program: of ``Tensors``, whose inner module is ``module``.
        call: makes the arguments anew.
        result: what the module returned for them.
    """
    constants = _outside_constants(module, program)
    if not constants:
        return
    with contextlib.suppress(*OF_VALUES):  # other values than those of the user may not fit
        other = call()
        other.with_tensors([_other(tensor) for tensor in other.tensors]).run(module)
    try:
        same = same_result(result, call().run(module))
    except OF_VALUES:  # it read what the tracing left: tensors without values
        same = False
    if same:
        return
    traces = [trace for node in constants for user in node.users if (trace := user.meta.get("stack_trace"))]
    places = dict.fromkeys(str(place) for trace in traces if (place := place_of_trace(trace)) is not None)
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    raise StageError(
        f"{type(module).__name__}.forward keeps state between calls outside of the module, and its outputs depend on "
        f"it; an engine forgets everything between calls; tensors that come from outside are read at "
        f"{'; '.join(list(places)[:_NAMED]) or 'lines that torch does not tell'}{more}",
        "make the state an input and an output: forward takes the old value and returns the new one beside its result",
    )


def _outside_constants(module: torch.nn.Module, program: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    """Tensors that ``forward`` found outside of the module; not those that it makes of numbers: ``torch.tensor(1)``."""
    constants = program.graph_signature.inputs_to_lifted_tensor_constants
    own = {f"{Tensors.INNER}.{name}" for name, _, _ in owners_in(module)}
    makes = torch.ops.aten.lift_fresh_copy.default
    return [
        node
        for node in program.graph.find_nodes(op="placeholder")
        if constants.get(node.name, Tensors.INNER) not in {Tensors.INNER, *own}
        and any(user.target is not makes for user in node.users)
    ]


def _other(tensor: torch.Tensor) -> torch.Tensor:
    """Other values of the same kind: integers are those of the example in another order, for they may be indices."""
    if tensor.is_floating_point() or tensor.is_complex():
        steps = torch.arange(tensor.numel(), device=tensor.device).sin().reshape(tensor.shape)
        return tensor + (steps * (1 + tensor.abs().amax())).to(tensor.dtype) if tensor.numel() else tensor
    turned = tensor.flatten().flip(0).reshape(tensor.shape)
    if not torch.equal(turned, tensor):
        return turned
    return ~tensor if tensor.dtype == torch.bool else tensor + 1
