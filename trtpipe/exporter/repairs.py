"""Repairs of an ONNX file as graph editors and old exporters write it: what is missing or twice, and in doubt nowhere.

TensorRT's parser and onnxruntime take such models; the ONNX checker and other tools refuse them. A repair changes
nothing about what a model computes; where that is in doubt it raises InputError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy as copy
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from trtpipe.errors import InputError
from trtpipe.exporter.constant_branches import take_constant_branches
from trtpipe.exporter.declared_types import state_types
from trtpipe.exporter.deprecated import replace_deprecated
from trtpipe.passes.node_names import pattern_of
from trtpipe.preflight.checks import STRAY
from trtpipe.preflight.ordering import sorted_order
from trtpipe.preflight.versions import OPSETS_SINCE, assumed_opset

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from google.protobuf.message import Message

#: Puts a model in order, in place, and says in one sentence each what it did.
Repair: TypeAlias = Callable[[onnx.ModelProto], Iterator[str]]

_OWN = ("", "ai.onnx")
_MICROSOFT, _PLUGINS = "com.microsoft", "trt.plugins"
#: Names that a note lists.
_NAMED = 5
#: The version of the format since which an initializer need not be an input.
_FREE_INITIALIZERS = 4
#: Operators and which of their inputs are weights: an exporter that lists one as an input lists all weights.
_WEIGHTS = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "BatchNormalization": (1, 2, 3, 4), "PRelu": (1,),
    "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip


def repair(model: onnx.ModelProto) -> list[str]:
    """Apply all repairs, in place.

    Returns:
        What was done.

    Raises:
        InputError: what the model means is in doubt. The message names no file.

    Example:
        >>> repair(model)
        ["the graph had no name"]
    """
    return [note for each in REPAIRS for note in each(model)]


def give_domains(model: onnx.ModelProto) -> Iterator[str]:
    """Take out of ONNX's own domain what ONNX does not have: plug-ins as graph editors add them, and operators that
    onnxruntime's optimizer writes there. The preliminary check has refused all others.
    """
    local = {function.name for function in model.functions}
    for node in _nodes(model.graph):
        if node.domain in _OWN and node.op_type not in local and not onnx.defs.has(node.op_type):
            node.domain = _MICROSOFT if node.op_type in STRAY else _PLUGINS
            label = node.name or node.output[0]
            yield f"{node.op_type} {label!r} is no operator of ONNX's own: the domain {node.domain!r} was assumed"


def state_versions(model: onnx.ModelProto) -> Iterator[str]:
    """State the opset of every domain once, and a version of the format that has it."""
    nodes = list(_nodes(model.graph))
    opsets: dict[str, int] = {}
    for entry in model.opset_import:  # the preliminary check has refused two versions of one domain
        opsets["" if entry.domain in _OWN else entry.domain] = entry.version
    used = {"" if node.domain in _OWN else node.domain for node in nodes}
    stated = dict(opsets)
    if opsets.get("", 0) < 1 and (opsets or model.ir_version >= OPSETS_SINCE):
        opsets[""] = assumed_opset(model.ir_version, {node.op_type for node in nodes})
        yield f"no opset was stated: {opsets['']} was assumed, the newest of the format's version {model.ir_version}"
    opsets.setdefault("", 1)  # before version 3 of the format there was one opset
    for domain in sorted(used - opsets.keys()):
        opsets[domain] = 1
        yield f"no version of the domain {domain!r} was stated: 1 was assumed"
    if opsets != stated or len(model.opset_import) > len(stated):
        del model.opset_import[:]
        model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items())
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        given = model.ir_version
        model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
        yield f"the version of the format was {given}, which there is not: {model.ir_version} was taken"


def name_graphs(model: onnx.ModelProto) -> Iterator[str]:
    """Give a name to graphs that have none."""
    for graph in _graphs(model.graph):
        if not graph.name:
            graph.name = "graph"
            yield f"{'the graph' if graph is model.graph else 'a body'} had no name"


def fill_sparse(model: onnx.ModelProto) -> Iterator[str]:
    """Make sparse constants dense; engines have no others."""
    for graph in _graphs(model.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse))
            yield f"the sparse constant {sparse.values.name!r} was made dense"
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "sparse_value":
                    attribute.t.CopyFrom(_dense(attribute.sparse_tensor))
                    attribute.ClearField("sparse_tensor")
                    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                    yield f"the sparse constant {node.output[0]!r} was made dense"


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    name, shape = sparse.values.name, tuple(sparse.dims)
    try:
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        places = np.ravel_multi_index(tuple(indices.T), shape) if indices.ndim == 2 else indices
        full = np.zeros(int(np.prod(shape)), values.dtype)
        if places.size and not 0 <= places.min() <= places.max() < full.size:
            raise ValueError(f"an index of it is {places.max()}, and it has {full.size} elements")
        full[places] = values
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"the sparse constant {name!r}: {error}", "correct its indices") from error
    return numpy_helper.from_array(full.reshape(shape), name)


def drop_repeats(model: onnx.ModelProto) -> Iterator[str]:
    """List every input, constant, output and inner value once."""
    for graph in _graphs(model.graph):
        yield from _once("input", graph.input)
        yield from _once("constant", graph.initializer)
        public = {value.name for value in graph.input} | {value.name for value in graph.output}
        counts = Counter(value.name for value in graph.output)
        for index in reversed(range(len(graph.output))):
            name = graph.output[index].name
            if counts[name] > 1:
                counts[name] -= 1
                del graph.output[index]
                yield f"the output {name!r} was listed twice"
        counts = Counter(value.name for value in graph.value_info)
        doubtful = {name for name, count in counts.items() if count > 1 or name in public}
        if doubtful:
            kept = [value for value in graph.value_info if value.name not in doubtful]
            _replace(graph.value_info, kept)
            yield f"what was stated twice of {_listed(doubtful)} was dropped, and inferred"


def _once(what: str, values: RepeatedCompositeFieldContainer[Any]) -> Iterator[str]:
    places: dict[str, int] = {}
    repeated = []
    for index, value in enumerate(values):
        first = places.setdefault(value.name, index)
        if first != index:
            if values[first] != value:
                raise InputError(f"the {what} {value.name!r} is there twice, and not the same", "remove one of them")
            repeated.append(index)
    for index in reversed(repeated):
        yield f"the {what} {values[index].name!r} was there twice"
        del values[index]


def free_initializers(model: onnx.ModelProto) -> Iterator[str]:
    """Take the version of the format since which constants are no inputs, where some are listed as none already."""
    names = {tensor.name for tensor in model.graph.initializer}
    if model.ir_version < _FREE_INITIALIZERS and not names <= {value.name for value in model.graph.input}:
        _replace(model.graph.input, [value for value in model.graph.input if value.name not in names])
        given, model.ir_version = model.ir_version, _FREE_INITIALIZERS
        yield f"version {given} of the format wants constants among the inputs: version {_FREE_INITIALIZERS} was taken"


def sort_nodes(model: onnx.ModelProto) -> Iterator[str]:
    """Put every node behind those whose values it reads, in bodies and functions too."""
    yield from _sorted(model.graph, ())
    for function in model.functions:
        yield from _sorted(function, ())


def _sorted(graph: onnx.GraphProto | onnx.FunctionProto, around: tuple[set[str], ...]) -> Iterator[str]:
    own = {name for node in graph.node for name in node.output}
    if isinstance(graph, onnx.GraphProto):
        own |= {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        for body in _bodies(node):
            yield from _sorted(body, (*around, own))
    nodes = list(graph.node)
    order = sorted_order([_read(node) for node in nodes], [node.output for node in nodes], around)
    if order is None:
        raise InputError(f"the nodes of {graph.name!r} form a cycle", "correct the inputs of its nodes")
    if order != list(range(len(nodes))):
        _replace(graph.node, [nodes[index] for index in order])
        yield f"the nodes of {graph.name!r} were sorted: some stood before those whose values they read"


def _read(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, in its bodies too."""
    found = set(node.input)
    for body in _bodies(node):
        made = {name for inner in body.node for name in inner.output}
        made |= {value.name for value in (*body.input, *body.initializer)}
        inside = set().union(*map(_read, body.node), (value.name for value in body.output))
        found |= inside - made
    return found - {""}


def rename_shadows(model: onnx.ModelProto) -> Iterator[str]:
    """Give a name of its own to what a body calls as something around it is called; nodes mean what was made last."""
    taken = {name for graph in _graphs(model.graph) for node in graph.node for name in node.output}
    taken |= {value.name for graph in _graphs(model.graph) for value in (*graph.input, *graph.initializer)}
    yield from _rename(model.graph, (), {}, taken)


def _rename(
    graph: onnx.GraphProto, around: tuple[set[str], ...], renamed: dict[str, str], taken: set[str]
) -> Iterator[str]:
    own: set[str] = set()
    now = dict(renamed) if around else renamed  # only a body renames anything
    shadowed: list[str] = []

    def defined(name: str) -> str:
        if not name or not any(name in names for names in around):
            now.pop(name, None)
            own.add(name)
            return name
        count = 2
        while (other := f"{name}_{count}") in taken:
            count += 1
        taken.add(other)
        own.add(other)
        now[name] = other
        shadowed.append(name)
        return other

    for value in (*graph.input, *graph.initializer):
        value.name = defined(value.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in now:
                node.input[index] = now[name]
        for body in _bodies(node):
            yield from _rename(body, (*around, own), now, taken)
        for index, name in enumerate(node.output):
            if (other := defined(name)) != name:
                node.output[index] = other
    for value in (*graph.output, *graph.value_info):
        value.name = now.get(value.name, value.name)
    if shadowed:
        yield f"a body has names of the graph around it, which were changed there: {_listed(shadowed)}"


def name_nodes(model: onnx.ModelProto) -> Iterator[str]:
    """Give nodes of one graph with equal names names of their own: onnxruntime refuses such a graph."""
    for graph in _graphs(model.graph):
        given = {node.name for node in graph.node}
        counts: Counter[str] = Counter()
        repeated = []
        for node in graph.node:
            name = node.name
            counts[name] += 1
            if not name or counts[name] == 1:
                continue
            while (other := f"{name}_{counts[name]}") in given:
                counts[name] += 1
            repeated.append(name)
            node.name = other
        if repeated:
            yield f"several nodes had one name, and were renamed: {_listed(repeated)}"


#: All repairs, in order: each may rely on those before it.
REPAIRS: tuple[Repair, ...] = (
    give_domains,
    state_versions,
    name_graphs,
    fill_sparse,
    drop_repeats,
    free_initializers,
    sort_nodes,
    rename_shadows,
    take_constant_branches,
    replace_deprecated,
    state_types,
    name_nodes,
)


def settle_defaults(model: onnx.ModelProto, freeze: Sequence[str]) -> Iterator[str]:
    """Decide of every input that has a default value whether it is an input or a constant, in place.

    An engine has no defaults. Such an input stays one, and loses its default; it becomes a constant where ``freeze``
    names it. Weights are constants: before version 4 of the format all of them were inputs too, and some exporters
    have kept to that.

    Args:
        freeze: patterns of names.
    """
    graph = model.graph
    constants = {tensor.name: index for index, tensor in enumerate(graph.initializer)}
    inputs = [value.name for value in graph.input]
    both = [name for name in inputs if name in constants]
    if not both or model.ir_version < _FREE_INITIALIZERS or _lists_weights(graph, both):
        return
    dropped = []
    for name in both:
        if pattern_of(name, freeze) is None:
            dropped.append(constants[name])
            yield f"input {name!r} has a default value, which engines cannot have: every sample has to feed it"
        else:
            del graph.input[inputs.index(name)]
            inputs.remove(name)
            yield f"input {name!r} was made a constant, its default value"
    for index in sorted(dropped, reverse=True):
        del graph.initializer[index]


def _lists_weights(graph: onnx.GraphProto, both: Collection[str]) -> bool:
    """Whether inputs with defaults are the weights of an exporter that lists each of them as an input."""
    if len(both) < len(graph.initializer) or len(both) == len(graph.input):
        return False
    read = {
        node.input[index]
        for node in graph.node
        for index in _WEIGHTS.get(node.op_type, ())
        if index < len(node.input) and node.domain in _OWN
    }
    return not read.isdisjoint(both)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all bodies in it, outer ones first."""
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from _graphs(body)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for each in _graphs(graph):
        yield from each.node


def _replace(values: RepeatedCompositeFieldContainer[Any], kept: Sequence[Message]) -> None:
    """Let a list of messages hold these, which are some of its own."""
    copies = [copy(value) for value in kept]  # what is cleared is gone
    del values[:]
    values.extend(copies)


def _listed(names: Collection[str]) -> str:
    """Some names, and how many more there are."""
    found = sorted(set(names))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more
