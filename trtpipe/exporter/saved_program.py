"""Programs that came exported (``.pt2``): their inputs and outputs by names, and how to call them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from trtpipe.exporter.calling import Call
from trtpipe.exporter.loading import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def saved_call(program: torch.export.ExportedProgram) -> Call:
    """The call that a program was exported with; empty tensors stand for the tensors in it."""
    specs = [spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    args, kwargs = torch.utils._pytree.tree_unflatten([_stand_in(arg) for arg in specs], program.call_spec.in_spec)
    signature = program.module_call_graph[0].signature if program.module_call_graph else None
    labels = list((signature and signature.forward_arg_names) or [])[: len(args)]
    labels += [f"input_{index}" for index in range(len(labels), len(args))]
    return Call(tuple(args), dict(kwargs), tuple(labels))


def saved_result(program: torch.export.ExportedProgram) -> object:
    """What a program returns; empty tensors stand for the tensors in it."""
    specs = [spec.arg for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    return torch.utils._pytree.tree_unflatten([_stand_in(arg) for arg in specs], program.call_spec.out_spec)


def unread_notes(program: torch.export.ExportedProgram, names: Sequence[str]) -> tuple[str, ...]:
    """Of the inputs that a program does not read.

    Args:
        names: of the tensors that it takes, in order.
    """
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    tensors = [spec.arg.name for spec in specs if isinstance(spec.arg, TensorArgument)]
    used = {node.name for node in program.graph.find_nodes(op="placeholder") if node.users}
    return tuple(
        f"the program does not read input {name}; if it was exported with one tensor for two inputs, torch.export took "
        "them for one: export it with copies"
        for name, tensor in zip(names, tensors, strict=True)
        if tensor not in used
    )


def of_tensors(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without outputs that are no tensors: ONNX has none. It is to be converted, not to be run."""
    keep = [
        spec.kind != OutputKind.USER_OUTPUT or isinstance(spec.arg, TensorArgument)
        for spec in program.graph_signature.output_specs
    ]
    if all(keep):
        return program
    found = copy.deepcopy(program)
    specs = found.graph_signature.output_specs
    specs[:] = [spec for spec, kept in zip(specs, keep, strict=True) if kept]
    node = found.graph.output_node()
    node.args = (tuple(value for value, kept in zip(node.args[0], keep, strict=True) if kept),)
    found.graph_module.recompile()
    signature = found.module_call_graph[0].signature
    assert signature is not None
    count = sum(spec.kind == OutputKind.USER_OUTPUT for spec in specs)
    signature.out_spec = torch.utils._pytree.tree_structure(tuple(range(count)))
    return found


def _stand_in(argument: Any) -> object:
    return torch.empty(0) if isinstance(argument, TensorArgument) else getattr(argument, "value", None)
