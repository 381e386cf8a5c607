"""Names of inputs, outputs and dimensions of a graph from PyTorch's exporter; and removal of its metadata."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import onnx_ir as ir
from onnx_ir.passes import common

from trtpipe.errors import InputError, StageError
from trtpipe.passes.graph_pass import FreshNames

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trtpipe.exporter.request import TorchRequest

T = TypeVar("T")

_SYMBOL = re.compile(r"[^\W\d]\w*")


def name_interface(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name the graph's inputs and outputs; other values with one of these names are renamed.

    Raises:
        InputError: there are too few or too many names, or one is given twice.
    """
    wanted = [*paired(model.graph.inputs, inputs, "input"), *paired(model.graph.outputs, outputs, "output")]
    names: dict[str, ir.Value] = {}
    for value, name in wanted:
        if names.setdefault(name, value) is not value:
            raise InputError(
                f"two inputs or outputs are called {name!r}", "give them names: --input-names, --output-names"
            )
    public = {value for value, _ in wanted}
    fresh = FreshNames(model)
    others = [out for node in model.graph for out in node.outputs] + list(model.graph.initializers.values())
    for value in others:
        if value.name in names and value not in public:
            value.name = fresh(f"{value.name}_inner")
    for value, name in wanted:
        value.name = name


def paired(values: Sequence[T], names: Sequence[str], what: str) -> list[tuple[T, str]]:
    """Every input or output (``what``) with its name.

    Raises:
        InputError: there are too few or too many names.
    """
    if len(values) != len(names):
        raise InputError(
            f"{len(names)} {what} names were given ({', '.join(names)}), the model has {len(values)} {what}s",
            f"give one name per {what}",
        )
    return list(zip(values, names, strict=True))


def name_dimensions(model: ir.Model) -> None:
    """Rename torch's symbols (``s77``) to ``batch`` or ``<input>_<axis>``.

    A symbol that has one value only (torch writes ``"2"``) becomes that number.
    """
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(_dimensions(value)):
            if isinstance(dim, str) and dim not in names:
                readable = "batch" if axis == 0 else f"{value.name}_{axis}"
                names[dim] = readable if readable not in names.values() else f"{value.name}_{axis}"
    values = [*model.graph.inputs, *(out for node in model.graph.all_nodes() for out in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in _dimensions(value)])


def _renamed(dim: int | str | None, names: Mapping[str, str]) -> int | str | None:
    """A dimension, which may be a formula (``2*s77``), with its symbols renamed."""
    return _SYMBOL.sub(lambda found: names.get(found[0], found[0]), dim) if isinstance(dim, str) else dim


def _dimensions(value: ir.Value) -> list[int | str | None]:
    dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape or ()]
    return [int(dim) if isinstance(dim, str) and dim.isdigit() else dim for dim in dims]


def check_dynamic(inputs: Iterable[tuple[str, Sequence[object]]], request: TorchRequest) -> None:
    """Check that no dimension that has to be dynamic has become a constant.

    Args:
        inputs: of the exported model: name and shape; a fixed dimension is an int.

    Raises:
        StageError: one has.
    """
    for name, shape in inputs:
        low, _, high = request.shapes.get(name, ((), (), ()))
        for axis, (least, most, dim) in enumerate(zip(low, high, shape, strict=False)):
            if least != most and isinstance(dim, int):
                raise StageError(
                    f"dimension {axis} of input {name!r} is {least}..{most} in the profile, "
                    f"but the model's code fixes it to {dim}",
                    "make the model's code independent of that size, or give it one size in the profile",
                )


def separate_outputs(model: ir.Model) -> None:
    """Give each output a value of its own: not an input's, not a constant's, and not that of another output."""
    own = {*model.graph.inputs, *model.graph.initializers.values()}
    for position, value in enumerate(model.graph.outputs):
        if value in own:
            node = ir.node("Identity", [value], name=f"output_{position}/Identity")
            copied = node.outputs[0]
            copied.name = FreshNames(model)(f"{value.name}_output")
            copied.type, copied.shape = value.type, value.shape
            model.graph.append(node)
            model.graph.outputs[position] = copied
        own.add(value)


def strip_metadata(model: ir.Model) -> None:
    """Remove metadata: it holds paths and stack traces of this machine, so equal models would differ."""
    common.ClearMetadataAndDocStringPass()(model)
    for part in (model, model.graph):
        part.doc_string = None
        part.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        for output in node.outputs:
            output.metadata_props.clear()
