"""What a PyTorch module is exported with: the arguments of ``forward``, and which of their axes vary."""

from __future__ import annotations

import inspect
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from trtpipe.errors import InputError
from trtpipe.exporter.loading import parameters_of, torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.exporter.request import TorchRequest


def arguments_of(
    module: torch.nn.Module, examples: tuple[Any, ...] | None, request: TorchRequest
) -> dict[str, torch.Tensor]:
    """Forward's arguments by name: the examples, repeated along dynamic axes, or zeros of the typical shapes.

    Raises:
        InputError: examples are missing, too many or no tensors, or do not fit the shapes.
    """
    parameters = {
        name: parameter
        for name, parameter in parameters_of(module.forward)
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    names = list(parameters)
    public = dict(zip(names, request.input_names, strict=False)) if request.input_names else {}
    if examples is None:
        known = list(takewhile(lambda name: public.get(name, name) in request.shapes, names))
        needed = [name for name in names if parameters[name].default is inspect.Parameter.empty] or names[:1]
        missing = [public.get(n, n) for n in needed if public.get(n, n) not in request.shapes]
        if missing or not known:
            raise InputError(
                f"{type(module).__name__}: no example inputs, and no shapes for {', '.join(missing) or 'its inputs'}",
                f"return (module, example_inputs), or add --shapes {(missing or ['x'])[0]}:1x3x224x224",
            )
        examples = tuple(torch.zeros(request.shapes[public.get(name, name)][1]) for name in known)
    if len(examples) > len(names):
        raise InputError(
            f"{type(module).__name__}.forward takes {len(names)} inputs, {len(examples)} examples were given",
            "return one example per argument of forward",
        )
    arguments = {}
    for name, example in zip(names, examples, strict=False):
        if not isinstance(example, torch.Tensor):
            raise InputError(f"example input {name!r} is a {type(example).__name__}, not a tensor", "give tensors")
        arguments[name] = _stretch(name, example, request.shapes.get(public.get(name, name)))
    return arguments


def dynamic_axes(arguments: Mapping[str, torch.Tensor], request: TorchRequest) -> tuple[dict[int, Any], ...] | None:
    """Of every argument the axes that vary, with their bounds; ``None`` where none does."""
    public = dict(zip(arguments, request.input_names, strict=False)) if request.input_names else {}
    found = []
    for name in arguments:
        low, _, high = request.shapes.get(public.get(name, name), ((), (), ()))
        auto = torch.export.Dim.AUTO
        found.append({i: auto(min=a, max=b) for i, (a, b) in enumerate(zip(low, high, strict=True)) if a != b})
    return tuple(found) if any(found) else None


def _stretch(name: str, example: torch.Tensor, shape: Sequence[Sequence[int]] | None) -> torch.Tensor:
    """Make every dynamic axis at least 2 long, because torch.export takes 0 and 1 for constants."""
    if shape is None:
        return example
    low, typical, high = shape
    if len(low) != example.dim():
        raise InputError(
            f"shapes for {name!r} have rank {len(low)}, its example input has rank {example.dim()}",
            "give shapes of the example's rank",
        )
    for axis, (least, most) in enumerate(zip(low, high, strict=True)):
        wanted = most if least == most else min(most, max(2, least, min(typical[axis], example.shape[axis])))
        if example.shape[axis] != wanted:
            index = torch.arange(wanted) % example.shape[axis]
            example = example.index_select(axis, index)
    return example
