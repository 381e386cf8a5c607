"""Hostile ONNX models, each made by a few lines: nothing here was taken from anywhere, and nothing is stored."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Spoil = Callable[[onnx.ModelProto], object]

CANARY = b"CANARY-0123456789-secret-bytes-of-somebody-else!"


def plain() -> onnx.ModelProto:
    """x[2,4] -> MatMul, Relu -> y[2,3]: what every other one here was before it was spoilt."""
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "matmul"), helper.make_node("Relu", ["h"], ["y"], "relu")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def add(proto: onnx.ModelProto, op: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    proto.graph.node.append(helper.make_node(op, inputs, outputs, **attributes))
    return proto.graph.node[-1]


def tensor(proto: onnx.ModelProto, name: str, value: object, dtype: object = np.int64) -> str:
    proto.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
    return name


def functions(proto: onnx.ModelProto, levels: int, fan: int) -> None:
    """``levels`` functions, each of which calls the next ``fan`` times."""
    proto.opset_import.append(helper.make_opsetid("f", 1))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    for level in range(levels):
        called = ("Relu", "") if level == levels - 1 else (f"F{level + 1}", "f")
        names = ["a", *(f"t{i}" for i in range(fan - 1)), "b"]
        nodes = [helper.make_node(called[0], [names[i]], [names[i + 1]], domain=called[1]) for i in range(fan)]
        proto.functions.append(helper.make_function("f", f"F{level}", ["a"], ["b"], nodes, opsets))
    add(proto, "F0", ["y"], ["z"], domain="f")


def recursion(*names: str) -> Spoil:
    def spoil(proto: onnx.ModelProto) -> None:
        proto.opset_import.append(helper.make_opsetid("f", 1))
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
        for name, called in zip(names, (*names[1:], names[0]), strict=True):
            node = helper.make_node(called, ["a"], ["b"], domain="f")
            proto.functions.append(helper.make_function("f", name, ["a"], ["b"], [node], opsets))
        add(proto, names[0], ["y"], ["z"], domain="f")

    return spoil


def nest(proto: onnx.ModelProto, depth: int) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["y"], ["b0"])], "b", [], [value("b0")])
    for level in range(1, depth):
        node = helper.make_node("If", ["c"], [f"b{level}"], then_branch=body, else_branch=plain_body(level))
        body = helper.make_graph([node], "b", [], [value(f"b{level}")])
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    add(proto, "If", ["c"], ["z"], then_branch=body, else_branch=plain_body(depth))


def plain_body(level: int) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["y"], [f"e{level}"])], "e", [], [value(f"e{level}")])


def value(name: str, *dims: int, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims or None)


def chain(proto: onnx.ModelProto, length: int) -> None:
    node = proto.graph.node[1]
    for index in range(length):
        node.input[0], node.output[0], node.name = f"c{index}", f"c{index + 1}", f"n{index}"
        proto.graph.node.append(node)
    proto.graph.node[2].input[0] = "h"
    del proto.graph.node[1]
    proto.graph.node[-1].output[0] = "y"


def bytes_of(payload: bytes, number: int) -> bytes:
    """A field of bytes on the wire."""
    size, head = len(payload), bytearray([number << 3 | 2])
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*head, size]) + payload


def weight(proto: onnx.ModelProto) -> onnx.TensorProto:
    return proto.graph.initializer[0]


def lie(**fields: object) -> Spoil:
    """Change fields of the weight."""

    def spoil(proto: onnx.ModelProto) -> None:
        for name, content in fields.items():
            if isinstance(content, (list, tuple)):
                del getattr(weight(proto), name)[:]
                getattr(weight(proto), name).extend(content)
            else:
                setattr(weight(proto), name, content)

    return spoil


def rename(old: str, new: str) -> Spoil:
    def spoil(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = new if name == old else name
        for item in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
            item.name = new if item.name == old else item.name

    return spoil


def conv(**attributes: object) -> Spoil:
    def spoil(proto: onnx.ModelProto) -> None:
        tensor(proto, "k", np.ones((1, 1, 3, 3)), np.float32)
        proto.graph.input.append(value("image", 1, 1, 8, 8))
        add(proto, "Conv", ["image", "k"], ["z"], **attributes)

    return spoil


def dual(proto: onnx.ModelProto) -> None:
    weight(proto).float_data.extend([666.0] * 12)


def swapped(proto: onnx.ModelProto) -> None:
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def circle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "loop"
    add(proto, "Identity", ["y"], ["loop"])


def sparse(location: str = "") -> Spoil:
    def spoil(proto: onnx.ModelProto) -> None:
        values = helper.make_tensor("s", TensorProto.FLOAT, [3], [1.0, 2, 3])
        indices = helper.make_tensor("i", TensorProto.INT64, [3], [0, 1, 2])
        if location:
            values.ClearField("float_data")
            values.data_location = TensorProto.EXTERNAL
            values.external_data.add(key="location", value=location)
        proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10 if location else 1 << 62]))

    return spoil


def attribute_of_two_types(proto: onnx.ModelProto) -> None:
    attribute = add(proto, "Softmax", ["y"], ["z"], axis=1).attribute[0]
    attribute.f = 2.5


def empty_attribute(kind: int) -> Spoil:
    def spoil(proto: onnx.ModelProto) -> None:
        add(proto, "Constant", [], ["z"]).attribute.add(name="value", type=kind)

    return spoil


def without(field: str) -> Spoil:
    return lambda proto: proto.graph.ClearField(field)


def loop(trips: int) -> Spoil:
    def spoil(proto: onnx.ModelProto) -> None:
        one = helper.make_node("Identity", ["keep"], ["on"])
        two = helper.make_node("Relu", ["state"], ["next"])
        count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
        keep, on = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("keep", "on"))
        body = helper.make_graph([one, two], "b", [count, keep, value("state")], [on, value("next")])
        tensor(proto, "trips", trips)
        tensor(proto, "go", True, np.bool_)
        add(proto, "Loop", ["trips", "go", "y"], ["z"], body=body)
        proto.graph.output.append(value("z", 2, 3))

    return spoil


def huge_constant(proto: onnx.ModelProto) -> None:
    tensor(proto, "size", [1 << 40])
    add(proto, "ConstantOfShape", ["size"], ["z"])
    proto.graph.output.append(value("z", 1 << 40))


def huge_range(proto: onnx.ModelProto) -> None:
    for name, number in (("start", 0), ("limit", 1 << 34), ("delta", 1)):
        tensor(proto, name, number)
    add(proto, "Range", ["start", "limit", "delta"], ["z"])
    proto.graph.output.append(value("z", 1 << 34, kind=TensorProto.INT64))


def divides_by_zero(proto: onnx.ModelProto) -> None:
    tensor(proto, "zero", [0])
    tensor(proto, "one", [1])
    add(proto, "Div", ["one", "zero"], ["z"])
    proto.graph.output.append(value("z", 1, kind=TensorProto.INT64))


def twice(field: str) -> Spoil:
    return lambda proto: getattr(proto.graph, field).append(getattr(proto.graph, field)[0])


#: name -> what it does to the plain model. All of these the pre-flight refuses.
REFUSED: dict[str, Spoil] = {
    "function bomb of 30 levels": lambda p: functions(p, 30, 2),
    "function bomb, flat and wide": lambda p: functions(p, 6, 20),
    "function that calls itself": recursion("A"),
    "functions in a circle": recursion("A", "B", "C"),
    "function defined twice": lambda p: (functions(p, 1, 1), p.functions.append(p.functions[0])),
    "functions 40 deep": lambda p: functions(p, 40, 1),
    "bodies 30 deep": lambda p: nest(p, 30),
    "a chain of 100,001 nodes": lambda p: chain(p, 100_001),
    "a circle": circle,
    "a node that feeds itself": lambda p: add(p, "Add", ["z", "y"], ["z"]),
    "nodes out of order": swapped,
    "an input nobody makes": lambda p: add(p, "Relu", ["nothing"], ["z"]),
    "an output nobody makes": lambda p: p.graph.output.append(value("nothing")),
    "a value made twice": lambda p: add(p, "Relu", ["x"], ["y"]),
    "a node that makes a weight": lambda p: add(p, "Relu", ["x"], ["w"]),
    "a node that makes an input": lambda p: add(p, "Relu", ["y"], ["x"]),
    "an output twice in one node": lambda p: add(p, "Split", ["y"], ["z", "z"], num_outputs=2, axis=1),
    "an initializer twice": twice("initializer"),
    "an input twice": twice("input"),
    "an output listed twice": twice("output"),
    "a node without outputs": lambda p: add(p, "Relu", ["x"], []),
    "a node with empty outputs": lambda p: add(p, "Relu", ["x"], [""]),
    "a node without operator": lambda p: add(p, "", ["x"], ["z"]),
    "no operator of this name": lambda p: add(p, "Frobnicate", ["x"], ["z"]),
    "no operator of this domain": lambda p: add(p, "Relu", ["x"], ["z"], domain="com.example"),
    "an operator's path in its name": lambda p: add(p, "../../tmp/x", ["x"], ["z"]),
    "too few inputs": lambda p: add(p, "Add", ["x"], ["z"]),
    "too many inputs": lambda p: add(p, "Relu", ["x", "x"], ["z"]),
    "a required input left empty": lambda p: add(p, "Add", ["x", ""], ["z"]),
    "too many outputs": lambda p: add(p, "Relu", ["x"], ["z", "v"]),
    "a required attribute missing": lambda p: add(p, "Cast", ["x"], ["z"]),
    "a cast to a type nobody knows": lambda p: add(p, "Cast", ["y"], ["z"], to=99),
    "an attribute of the wrong type": lambda p: add(p, "Cast", ["x"], ["z"], to="float"),
    "kernel sizes that are floats": conv(kernel_shape=[3.0, 3.0]),
    "an attribute twice": lambda p: add(p, "Softmax", ["x"], ["z"], axis=1).attribute.append(
        helper.make_attribute("axis", 0)
    ),
    "an attribute of two types": attribute_of_two_types,
    "an attribute of no known type": empty_attribute(14 + 1 - 1),
    "a tensor attribute without tensor": empty_attribute(4),
    "a graph attribute without graph": empty_attribute(5),
    "a sparse attribute without tensor": empty_attribute(11),
    "a type nobody knows": lie(data_type=77),
    "no type at all": lie(data_type=0),
    "a negative dimension": lie(dims=[-4, 3]),
    "dimensions that overflow 64 bits": lie(dims=[1 << 33, 1 << 33]),
    "dimensions that overflow to the right number": lie(dims=[1 << 62, 4, 3]),
    "dimensions of 2^63 - 1": lie(dims=[(1 << 63) - 1]),
    "65 dimensions": lie(dims=[1] * 65),
    "100,000 dimensions": lie(dims=[1] * 100_000),
    "more values than the shape": lie(dims=[2, 3]),
    "fewer values than the shape": lie(dims=[400, 300]),
    "raw data one byte short": lambda p: lie(raw_data=weight(p).raw_data[:-1])(p),
    "raw data one byte long": lambda p: lie(raw_data=weight(p).raw_data + b"!")(p),
    "no data": lambda p: weight(p).ClearField("raw_data"),
    "values in two fields": dual,
    "values in the wrong field": lambda p: (weight(p).ClearField("raw_data"), weight(p).int64_data.extend(range(12))),
    "text as raw bytes": lie(data_type=TensorProto.STRING),
    "an input beyond memory": lambda p: p.graph.input.append(value("huge", 1 << 31, 1 << 31)),
    "an inner value beyond memory": lambda p: p.graph.value_info.append(value("h", 1 << 62, 8)),
    "an output of 1,000 dimensions": lambda p: p.graph.output.append(value("h", *[1] * 1000)),
    "a sparse tensor beyond memory": sparse(),
    "a name with a line feed": rename("y", "y\nerror: all is well"),
    "a name with an escape sequence": rename("y", "\x1b[2J\x1b[31mPASSED"),
    "a name with a NUL": rename("y", "y\0.onnx"),
    "a name with a C1 control": rename("x", "x\x9b31m"),
    "a node's name with a bell": lambda p: setattr(p.graph.node[0], "name", "\a" * 5),
    "an operator's name with a tab": lambda p: setattr(p.graph.node[0], "op_type", "Mat\tMul"),
    "a name of 5,000 letters": rename("y", "y" * 5000),
    "a dimension's name with a line feed": lambda p: p.graph.input.append(
        helper.make_tensor_value_info("v", 1, ["N\n"])
    ),
    "instructions for training": lambda p: p.training_info.add(),
    "no graph": lambda p: p.ClearField("graph"),
    "no opset": lambda p: p.ClearField("opset_import"),
    "no nodes and no outputs": lambda p: (without("node")(p), without("output")(p)),
}

#: Of these, what import repairs, with a note: it is clear what they compute.
REPAIRED = frozenset(
    {"nodes out of order", "an initializer twice", "an input twice", "an output listed twice", "no opset"}
)

#: Models that are in order as far as can be told without running them; a child has to survive them.
DANGEROUS: dict[str, Spoil] = {
    "a loop of 2^62 trips": loop(1 << 62),
    "a constant of 2^40 elements": huge_constant,
    "a range of 2^34 numbers": huge_range,
    "an integer division by zero": divides_by_zero,
    "an output called ../../../tmp/x": rename("y", "../../../../../../../../tmp/trtpipe-escaped"),
    "an output called /etc/passwd": rename("y", "/etc/passwd"),
    "an input called -o": rename("x", "-o"),
    "a chain of 5,000 nodes": lambda p: chain(p, 5000),
    "kernel sizes that are negative": conv(kernel_shape=[-3, -3]),
    "strides of zero": conv(kernel_shape=[3, 3], strides=[0, 0]),
    "pads beyond the image": conv(kernel_shape=[3, 3], pads=[1 << 40] * 4),
    "a group of zero": conv(kernel_shape=[3, 3], group=0),
    "opset 10,000": lambda p: setattr(p.opset_import[0], "version", 10_000),
    "opset -1": lambda p: setattr(p.opset_import[0], "version", -1),
    "an IR version from the future": lambda p: setattr(p, "ir_version", 1 << 40),
    "a weight that is not a number": lie(raw_data=np.full(12, np.nan, np.float32).tobytes()),
    "a reshape to nothing": lambda p: (tensor(p, "shape", [-1, -1]), add(p, "Reshape", ["y", "shape"], ["z"])),
    "a transpose by an axis twice": lambda p: add(p, "Transpose", ["y"], ["z"], perm=[0, 0]),
    "a gather beyond the end": lambda p: (tensor(p, "at", [1 << 40]), add(p, "Gather", ["y", "at"], ["z"])),
}


def hostile_bytes() -> dict[str, bytes]:
    """Files that are no protobuf, or protobuf that lies about lengths; all are refused."""
    whole = plain().SerializeToString()
    graph = plain().graph.SerializeToString()
    return {
        "an empty file": b"",
        "a text": b"#!/bin/sh\nrm -rf /\n",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "a zip archive": b"PK\x03\x04" + bytes(100),
        "an ELF program": b"\x7fELF" + bytes(100),
        "zeros": bytes(4096),
        "all bytes": bytes(range(256)) * 16,
        "a file that begins with d": b"d" * 300 + b"\0",
        "a length of 2^63": b"\x3a" + b"\xff" * 9 + b"\x7f",
        "a length beyond the file": b"\x3a\xff\xff\xff\xff\x0f",
        "a number without an end": b"\x08" + b"\xff" * 40,
        "field number 0": b"\x02\x01a" + whole,
        "a group": b"\x0b\x0c" + whole,
        "two graphs": whole + bytes_of(graph, 7),
        "a million empty nodes": bytes_of(graph + b"\x0a\x00" * 1_000_000, 7) + b"\x08\x0a\x42\x02\x10\x14",
        "a million empty attributes": bytes_of(graph + bytes_of(b"\x2a\x00" * 1_000_000, 1), 7),
        "five million empty tensors": bytes_of(graph + b"\x2a\x00" * 5_000_000, 7),
        "messages 1,000 deep": deep(1000),
        "a type 50 deep": bytes_of(graph + bytes_of(bytes_of(deep_type(50), 2), 11), 7),
        "half a model": whole[: len(whole) // 2],
        "a model less its last byte": whole[:-1],
        "a name that is not UTF-8": whole.replace(b"relu", b"\xff\xfe\xfd\xfc"),
    }


def deep(levels: int) -> bytes:
    """Bodies in bodies, written by hand: protobuf's own parser gives up at 100."""
    graph = b""
    for _ in range(levels):
        graph = bytes_of(bytes_of(bytes_of(graph, 6), 5), 1)
    return bytes_of(graph, 7)


def deep_type(levels: int) -> bytes:
    kind = b""
    for _ in range(levels):
        kind = bytes_of(bytes_of(kind, 1), 4)
    return kind


def external(folder: Path, location: str, **entries: str) -> Path:
    """The plain model with its weight at ``location``; what lies there is the caller's affair."""
    proto = plain()
    weight(proto).ClearField("raw_data")
    weight(proto).data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **entries}.items():
        weight(proto).external_data.add(key=key, value=text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return folder / "model.onnx"


def hostile_places(folder: Path) -> dict[str, Path]:
    """Models whose external data is not where it may be; beside their folder lies a secret."""
    folder.mkdir(parents=True, exist_ok=True)
    secret, inner = folder / "secret", folder / "models"
    secret.write_bytes(CANARY)
    made = {
        "..": external(inner / "a", "../../secret"),
        "an absolute path": external(inner / "b", str(secret)),
        "/dev/zero": external(inner / "c", "/dev/zero"),
        "/proc/self/environ": external(inner / "d", "/proc/self/environ"),
        "a link": external(inner / "e", "w"),
        "a hard link": external(inner / "f", "w"),
        "a linked folder": external(inner / "g", "sub/secret"),
        "a FIFO": external(inner / "h", "w"),
        "a folder": external(inner / "i", "w"),
        "nothing": external(inner / "j", "w"),
        "the folder itself": external(inner / "k", "."),
        "the model itself": external(inner / "l", "model.onnx"),
        "no location": external(inner / "m", ""),
        "a NUL": external(inner / "n", "w\0x"),
        "a long name": external(inner / "o", "w" * 4000),
        "an offset beyond the end": external(inner / "p", "w", offset=str(1 << 62)),
        "a negative offset": external(inner / "q", "w", offset="-48"),
        "an offset that overflows": external(inner / "r", "w", offset=str((1 << 64) - 24), length="48"),
        "an offset that is no number": external(inner / "s", "w", offset="0x10"),
        "a length beyond the end": external(inner / "t", "w", length=str(1 << 50)),
        "a negative length": external(inner / "u", "w", length="-1"),
        "an unknown entry": external(inner / "v", "w", __class__="os.system"),
        "a dangling link": external(inner / "w", "w"),
        "a link to a link": external(inner / "x", "w"),
        "a short file": external(inner / "y", "w"),
    }
    (inner / "e" / "w").symlink_to(secret)
    (inner / "f" / "w").hardlink_to(secret)
    (inner / "g" / "sub").symlink_to(folder, target_is_directory=True)
    os.mkfifo(inner / "h" / "w")
    (inner / "i" / "w").mkdir()
    (inner / "w" / "w").symlink_to(inner / "nowhere")
    (inner / "x" / "w").symlink_to(inner / "x" / "v")
    (inner / "x" / "v").symlink_to(secret)
    for name in "pqrstuv":
        (inner / name / "w").write_bytes(bytes(48))
    (inner / "y" / "w").write_bytes(bytes(47))
    return {f"weights at {place}": path for place, path in made.items()}
