"""Mutations of a model: most keep it protobuf and break one thing or a few; some flip bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from google.protobuf.message import Message

INTEGERS = (0, 1, -1, 2, 3, 7, 8, 16, 64, 255, 256, 65_535, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1)
FLOATS = (0.0, -1.0, 1e-45, 3.4e38, float("inf"), float("-inf"), float("nan"))
OPERATORS = tuple(
    """
    Add Sub Div Relu Conv ConvTranspose MatMul Gemm Reshape Transpose Concat Slice Gather Split Squeeze Unsqueeze Pad
    Softmax BatchNormalization LayerNormalization GlobalAveragePool MaxPool AveragePool Resize Expand Tile TopK Cast
    Clip QuantizeLinear DequantizeLinear ReduceSum ReduceMean ArgMax Where Shape ConstantOfShape Range NonZero OneHot
    Einsum GRU LSTM RNN Scatter ScatterND GatherND DepthToSpace SpaceToDepth Loop If Scan Identity Mod Pow CumSum Trilu
    Attention
    """.split()  # noqa: SIM905  a list of words is easier to read
)


def mutant(bases: list[bytes], chance: random.Random) -> bytes:
    """One mutated model."""
    data = chance.choice(bases)
    if chance.random() < 0.1:
        return flipped(data, chance)
    proto = onnx.ModelProto.FromString(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice(MUTATIONS)(proto, chance)
    return bytes(proto.SerializeToString())


def flipped(data: bytes, chance: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 10))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content[: chance.randrange(len(content))] if chance.random() < 0.1 else content)


def messages(proto: Message) -> Iterator[Message]:
    """A message and all messages in it."""
    yield proto
    for field, value in proto.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in (value,) if not repeated(field) else value:
                yield from messages(inner)


def repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def some_field(proto: onnx.ModelProto, chance: random.Random) -> None:
    """Another value for one field anywhere."""
    message = chance.choice(list(messages(proto)))
    fields = [field for field, _ in message.ListFields() if field.type != FieldDescriptor.TYPE_MESSAGE]
    if not fields:
        return
    field = chance.choice(fields)
    value = getattr(message, field.name)
    if not repeated(field):
        setattr(message, field.name, other(field, value, names_in(proto), chance))
    elif value:
        index = chance.randrange(len(value))
        value[index] = other(field, value[index], names_in(proto), chance)


def other(field: FieldDescriptor, value: Any, names: list[str], chance: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice(OPERATORS) if field.name == "op_type" else chance.choice([*names, "", "\x1b", "x" * 300])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return flipped(value, chance) if value and chance.random() < 0.5 else value[: chance.randrange(len(value) + 1)]
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return chance.choice(FLOATS)
    number = chance.choice((*INTEGERS, value + 1, value - 1))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return chance.choice(field.enum_type.values).number
    return number % (1 << (31 if field.type == FieldDescriptor.TYPE_INT32 else 63))


def names_in(proto: onnx.ModelProto) -> list[str]:
    return [name for node in proto.graph.node for name in (*node.input, *node.output)] + [
        tensor.name for tensor in proto.graph.initializer
    ]


def an_operator(proto: onnx.ModelProto, chance: random.Random) -> None:
    if proto.graph.node:
        chance.choice(proto.graph.node).op_type = chance.choice(OPERATORS)


def an_input(proto: onnx.ModelProto, chance: random.Random) -> None:
    node = chance.choice(proto.graph.node or [onnx.NodeProto()])
    if node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(names_in(proto))


def an_attribute(proto: onnx.ModelProto, chance: random.Random) -> None:
    nodes = [node for node in proto.graph.node if node.attribute]
    if nodes:
        attribute = chance.choice(chance.choice(nodes).attribute)
        if attribute.ints:
            attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(INTEGERS)
        else:
            attribute.i = chance.choice(INTEGERS)


def one_more_or_less(proto: onnx.ModelProto, chance: random.Random) -> None:
    """Repeat or drop something anywhere."""
    message = chance.choice(list(messages(proto)))
    fields = [(field, value) for field, value in message.ListFields() if repeated(field) and len(value)]
    if not fields:
        return
    _, value = chance.choice(fields)
    index = chance.randrange(len(value))
    if chance.random() < 0.5:
        del value[index]
    else:
        value.append(value[index])


def a_small_weight(proto: onnx.ModelProto, chance: random.Random) -> None:
    """Shapes, axes and other integers that are weights."""
    found = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT64]
    if found and found[0].raw_data:
        tensor = chance.choice(found)
        number = chance.choice(INTEGERS) % (1 << 64)
        tensor.raw_data = number.to_bytes(8, "little") + tensor.raw_data[8:]


def a_dimension(proto: onnx.ModelProto, chance: random.Random) -> None:
    values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    dims = [dim for value in values for dim in value.type.tensor_type.shape.dim]
    if dims:
        chance.choice(dims).dim_value = chance.choice(INTEGERS)


MUTATIONS = (
    *(some_field, some_field, some_field, an_operator, an_input),
    *(an_attribute, one_more_or_less, a_small_weight, a_dimension),
)
