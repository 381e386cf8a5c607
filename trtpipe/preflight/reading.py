"""From bytes to ``Model``: names are checked for control characters, tensors for type, dimensions and length.

Arithmetic is done with Python's own integers, which cannot overflow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trtpipe.preflight.model import (
    Attribute,
    Budgets,
    External,
    Function,
    Graph,
    Malformed,
    Model,
    Name,
    Node,
    Refused,
    Tensor,
    TooLarge,
    Value,
)
from trtpipe.preflight.wire import WireReader, content, loaded, numbers, signed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trtpipe.preflight.wire import Span

#: Numbers of AttributeProto's fields that hold a value.
_INTEGER, _TENSOR, _GRAPH, _TENSORS, _GRAPHS, _SPARSE, _SPARSES, _TYPE, _TYPES = 3, 5, 6, 10, 11, 22, 23, 14, 15
_VALUES = frozenset({2, _INTEGER, 4, 7, 8, 9, _TENSOR, _GRAPH, _TENSORS, _GRAPHS, _SPARSE, _SPARSES, _TYPE, _TYPES})
#: Bytes of one value in the packed data fields of TensorProto; 0 where its length varies.
_PACKED = {4: 4, 5: 0, 7: 0, 10: 8, 11: 0}
#: Nesting of a value's type: a sequence of maps of tensors is as deep as ONNX itself goes.
_DEEPEST_TYPE = 8
#: Weights, declared values and metadata entries there may be for each node.
_A_NODE = 10
_SIMPLIFY = "split the model, or simplify it"
_NOT_LAST = bytes(range(128, 256))
_CHUNK = 1 << 16
#: TensorProto.DataType -> bits of a value (onnx.proto); strings have no fixed size.
_TEXT_TYPE = 8
VALUE_BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
#: TensorProto.DataType -> (number of the field that may hold its values, fields' values per value of the tensor).
_FLOATS, _INT32S, _STRINGS, _INT64S, _DOUBLES, _UINT64S = 4, 5, 6, 7, 10, 11
_DATA_FIELDS = {
    **dict.fromkeys((2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 24), (_INT32S, 1)),
    1: (_FLOATS, 1),
    14: (_FLOATS, 2),
    7: (_INT64S, 1),
    8: (_STRINGS, 1),
    11: (_DOUBLES, 1),
    15: (_DOUBLES, 2),
    **dict.fromkeys((12, 13), (_UINT64S, 1)),
}
#: Every element type of ONNX.
ELEMENT_TYPES = frozenset({*VALUE_BITS, _TEXT_TYPE})
_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})


class Reader:
    """Reads one model.

    Args:
        budgets: what the model may take.
    """

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._wire = WireReader(budgets.parts)
        self._nodes = 0
        self._model = Model()

    def model(self, span: Span) -> Model:
        """Read a ModelProto.

        Raises:
            Refused: it is beyond a budget, or contradicts itself.
        """
        data = span[0]
        for number, begin, end, _ in self._wire.fields(span):
            if number == 1 and end < 0:
                self._model.ir_version = begin
            elif number == 20:
                raise Refused("it holds instructions for training", "export the model for inference")
            elif number == 7 and end >= 0:
                if self._model.graph is not None:
                    raise Refused("it holds two graphs")
                self._model.graph = self._graph((data, begin, end), 1)
            elif number == 8 and end >= 0:
                self._opset((data, begin, end), self._model.opsets)
            elif number == 25 and end >= 0:
                self._model.functions.append(self._function((data, begin, end)))
        return self._model

    def _parts(self, span: Span) -> Iterator[tuple[int, Span]]:
        """(number, content) of the fields of a message that are messages or bytes."""
        span = loaded(span)
        data = span[0]
        for number, begin, end, _ in self._wire.fields(span):
            if end >= 0:
                yield number, (data, begin, end)

    def _graph(self, span: Span, depth: int) -> Graph:
        if depth > self._budgets.depth:
            raise TooLarge(
                f"its bodies are nested more than {self._budgets.depth} deep, and protobuf reads no deeper",
                "simplify the model",
            )
        graph = Graph()
        span = loaded(span)
        self._count_nodes(span)
        for number, part in self._parts(span):
            if number == 1:
                graph.nodes.append(self._node(part, depth))
            elif number == 5:
                tensor = self._tensor(part)
                graph.constants.append(Value(tensor.name, kind=tensor.data_type))
            elif number == 15:
                graph.constants.append(self._sparse(part))
            elif number == 11:
                graph.inputs.append(self._value(part))
            elif number == 12:
                graph.outputs.append(self._value(part))
            elif number == 13:
                graph.declared.append(self._value(part))
        return graph

    def _count_nodes(self, span: Span) -> None:
        """Count the nodes before any is read, so that a model with too many is refused at once."""
        for count, (number, *_) in enumerate(self._wire.fields(span)):
            self._nodes += number == 1
            if self._nodes > self._budgets.nodes:
                raise TooLarge(f"it has more than {self._budgets.nodes} nodes", _SIMPLIFY)
            if count > _A_NODE * self._budgets.nodes:
                raise TooLarge("its graph has more parts than any real model's", _SIMPLIFY)

    def _node(self, span: Span, depth: int) -> Node:
        node = Node()
        for number, part in self._parts(span):
            if number == 1:
                node.inputs.append(self._name(part))
            elif number == 2:
                node.outputs.append(self._name(part))
            elif number == 3:
                node.name = self._name(part)
            elif number == 4:
                node.op_type = self._name(part)
            elif number == 7:
                node.domain = self._name(part)
            elif number == 8:
                node.overload = self._name(part)
            elif number == 5:
                node.attributes.append(self._attribute(part, node, depth))
                if len(node.attributes) > self._budgets.attributes:
                    raise TooLarge(f"{node.label} has more than {self._budgets.attributes} attributes", _SIMPLIFY)
        return node

    def _attribute(self, span: Span, node: Node, depth: int) -> Attribute:
        attribute = Attribute()
        span = loaded(span)
        data = span[0]
        for number, begin, end, _ in self._wire.fields(span):
            part = (data, begin, end)
            if number in _VALUES:
                attribute.held.add(number)
            if end < 0:
                if number == 20:
                    attribute.type = begin
                elif number == _INTEGER:
                    attribute.integer = signed(begin)
            elif number == 1:
                attribute.name = self._name(part)
            elif number == 21:
                attribute.reference = self._name(part)
            elif number in (_TENSOR, _TENSORS):
                self._tensor(part)
            elif number in (_GRAPH, _GRAPHS):
                node.bodies.append(self._graph(part, depth + 1))
            elif number in (_SPARSE, _SPARSES):
                self._sparse(part)
            elif number in (_TYPE, _TYPES):
                self._type(part, Value(), 1)
        return attribute

    def _function(self, span: Span) -> Function:
        function = Function()
        for number, part in self._parts(span):
            if number == 1:
                function.name = self._name(part)
            elif number == 10:
                function.domain = self._name(part)
            elif number == 13:
                function.overload = self._name(part)
            elif number == 4:
                function.graph.inputs.append(Value(self._name(part)))
            elif number == 5:
                function.graph.outputs.append(Value(self._name(part)))
            elif number == 7:
                function.graph.nodes.append(self._node(part, 1))
            elif number == 9:
                self._opset(part, function.opsets)
            elif number == 11:
                self._attribute(part, Node(), 1)
            elif number == 12:
                self._value(part)
        return function

    def _opset(self, span: Span, opsets: dict[Name, int]) -> None:
        domain, version = "", 0
        for number, begin, end, _ in self._wire.fields(span):
            if number == 1 and end >= 0:
                domain = self._name((span[0], begin, end))
            elif number == 2 and end < 0:
                version = begin
        domain = "" if domain == "ai.onnx" else domain
        if opsets.setdefault(domain, version) != version:
            raise Refused(
                f"it states two opsets, {opsets[domain]} and {version}, of the domain {domain or 'ai.onnx'!r}"
            )

    def _tensor(self, span: Span) -> Tensor:
        tensor = Tensor()
        span = loaded(span, _CHUNK)
        data = span[0]
        for number, begin, end, _ in self._wire.fields(span):
            part = (data, begin, end)
            if number == 1:
                tensor.dims += [begin] if end < 0 else numbers(content(part))
            elif number == 2 and end < 0:
                tensor.data_type = begin
            elif number == 8 and end >= 0:
                tensor.name = self._name(part)
            elif number == 9 and end >= 0:
                tensor.raw = end - begin
            elif number == 13 and end >= 0:
                entry = {key: self._name(text) for key, text in self._parts(part) if key in (1, 2)}
                tensor.entries.append((entry.get(1, ""), entry.get(2, "")))
            elif number == 14 and end < 0:
                tensor.is_external = begin == 1
            elif number == _STRINGS or number in _PACKED:
                tensor.counts[number] = tensor.counts.get(number, 0) + _count(number, part)
            if len(tensor.dims) > self._budgets.rank:
                raise Refused(f"tensor {tensor.name!r} has more than {self._budgets.rank} dimensions")
        external = check_tensor(tensor, self._budgets)
        if external is not None:
            self._model.external.append(external)
        return tensor

    def _sparse(self, span: Span) -> Value:
        """A sparse tensor, whose name is that of its values."""
        value = Value()
        for number, begin, end, _ in self._wire.fields(span):
            part = (span[0], begin, end)
            if number in (1, 2) and end >= 0:
                tensor = self._tensor(part)
                if number == 1:
                    value.name, value.kind = tensor.name, tensor.data_type
            elif number == 3:
                value.dims += [begin] if end < 0 else numbers(content(part))
        elements = check_dims(value.name, value.dims, self._budgets)
        if elements * VALUE_BITS.get(value.kind, 0) // 8 > self._budgets.dense:
            raise TooLarge(
                f"the sparse tensor {value.name!r} of shape {value.dims} would take more than {self._budgets.dense} "
                "bytes once made dense, as engines hold it",
                "split it",
            )
        return value

    def _value(self, span: Span) -> Value:
        value = Value()
        for number, part in self._parts(span):
            if number == 1:
                value.name = self._name(part)
            elif number == 2:
                self._type(part, value, 1)
        check_dims(value.name, value.dims, self._budgets)
        return value

    def _type(self, span: Span, value: Value, depth: int) -> None:
        """Read a TypeProto: sizes, and a tensor's element type."""
        if depth > _DEEPEST_TYPE:
            raise Refused("a value's type is nested too deeply")
        for number, part in self._parts(span):
            for inner, begin, end, _ in self._wire.fields(part) if number in (1, 4, 5, 8, 9) else ():
                field = (part[0], begin, end)
                if end < 0:
                    value.kind = begin if inner == 1 and number == 1 and depth == 1 else value.kind
                elif inner == 2 and number in (1, 8):
                    self._shape(field, value.dims)
                else:  # the element type of a sequence, a map or an optional
                    self._type(field, value if number == 9 else Value(), depth + 1)

    def _shape(self, span: Span, dims: list[int]) -> None:
        for number, part in self._parts(span):
            for inner, begin, end, _ in self._wire.fields(part) if number == 1 else ():
                if inner == 1 and end < 0:
                    dims.append(signed(begin))
                elif inner == 2 and end >= 0:
                    self._name((part[0], begin, end))
        if len(dims) > self._budgets.rank:
            raise Refused(f"a value has more than {self._budgets.rank} dimensions")

    def _name(self, span: Span) -> Name:
        """A name. Control characters could drive a terminal, end a line of a log, or truncate a C string.

        Raises:
            Refused: it is not UTF-8, too long, or holds control characters.
        """
        _, begin, end = span
        if end - begin > self._budgets.name:
            raise Refused(f"a name of {end - begin} characters")
        try:
            name = content(span).decode()
        except UnicodeDecodeError as error:
            raise Malformed("a name is not UTF-8") from error
        if not name.isprintable() and any(char < " " or "\x7f" <= char < "\xa0" for char in name):
            raise Refused(f"the name {name!r} holds control characters", "rename it")
        return name


def _count(number: int, span: Span) -> int:
    """How many values a data field of a tensor holds."""
    data, begin, end = span
    if end < 0 or number == _STRINGS:
        return 1
    width = _PACKED[number]
    if width:
        return (end - begin) // width
    pieces = range(begin, end, _CHUNK)
    return sum(len(content((data, at, min(at + _CHUNK, end))).translate(None, _NOT_LAST)) for at in pieces)


def check_dims(name: str, dims: Sequence[int], budgets: Budgets) -> int:
    """The number of elements; unknown dimensions (0 and below, in a value's type) count as one.

    Raises:
        Refused: there are more than the budget.
    """
    elements = math.prod(dim for dim in dims if dim > 0)
    if elements > budgets.elements:
        raise Refused(f"tensor {name!r} of shape {list(dims)} would hold {elements:.3g} elements", "correct its shape")
    return elements


def check_tensor(tensor: Tensor, budgets: Budgets) -> External | None:
    """Check a tensor; the place of its values if they are not in the file.

    Raises:
        Refused: it has an unknown type, impossible dimensions, or a number of values that does not match them.
    """
    what = f"tensor {tensor.name!r}"
    if tensor.data_type not in ELEMENT_TYPES:
        raise Refused(f"{what} is of type {tensor.data_type}, which ONNX does not define")
    dims = [dim - (1 << 64) if dim >> 63 else dim for dim in tensor.dims]
    if any(dim < 0 for dim in dims):
        raise Refused(f"{what} has the shape {dims}", "correct its shape")
    check_dims(tensor.name, dims, budgets)
    if tensor.is_external:
        return _external(tensor, what)
    elements = math.prod(dims)
    given = {number for number, count in tensor.counts.items() if count}
    if ((tensor.raw or 0) and given) or len(given) > 1:
        raise Refused(f"{what} holds its values twice, in fields that may differ")
    if not given:
        _check_raw(tensor, what, elements)
        return None
    field, times = _DATA_FIELDS.get(tensor.data_type, (0, 1))
    [number] = given
    if field and (number != field or tensor.counts[number] != elements * times):
        raise Refused(f"{what} of shape {dims} holds {tensor.counts[number]} values, {elements * times} are needed")
    return None


def _check_raw(tensor: Tensor, what: str, elements: int) -> None:
    if tensor.data_type == _TEXT_TYPE:
        if elements or tensor.raw:
            raise Refused(f"{what} lacks its strings")
        return
    needed = -(-elements * VALUE_BITS[tensor.data_type] // 8)
    if (tensor.raw or 0) != needed:
        raise Refused(f"{what} holds {tensor.raw or 0} bytes of values, {needed} are needed")


def _external(tensor: Tensor, what: str) -> External:
    where = f"external data of {what}"
    keys = [key for key, _ in tensor.entries]
    entries = dict(tensor.entries)
    if len(entries) != len(keys) or not set(keys) <= _KEYS:
        raise Refused(f"{where}: the entries {keys} are not those of the format")
    if tensor.raw or any(tensor.counts.values()):
        raise Refused(f"{where}: it holds values in the model too, which may differ")
    if tensor.data_type == _TEXT_TYPE:
        raise Refused(f"{where}: strings cannot be stored in another file")
    try:
        offset, length = (_byte_count(entries.get(key, "0")) for key in ("offset", "length"))
    except ValueError as error:
        raise Refused(f"{where}: {error}") from error
    if length < 0:
        raise Refused(f"{where} is {length} bytes long")
    needed = -(-math.prod(tensor.dims) * VALUE_BITS[tensor.data_type] // 8)
    return External(tensor.name, entries.get("location", ""), offset, max(length, needed))


def _byte_count(text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20):
        raise ValueError(f"{text!r} is no number of bytes")
    return int(text)
