"""What is known of a model before anything native reads it, the budgets it must keep to, and how it is refused.

What is known are names, operators, types and lengths; no values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Fields of a file that are read: a bound on memory for messages without content.
MOST_FIELDS = 4_000_000
#: Names of a value, a node or an operator. ``str`` once they are known to be clean.
Name = str


class Refused(ValueError):
    """What is wrong with the model. ``check_model`` adds the file and makes it an InputError."""

    lead = "not a valid ONNX model: "

    def __init__(self, message: str, remedy: str = "give an .onnx file as an exporter wrote it") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class Malformed(Refused):
    """The bytes are no protobuf message of this kind."""

    lead = "not an ONNX model, or cut short: "


class UnknownOperator(Refused):
    """An operator that neither ONNX nor a known vendor defines; the file itself may be valid."""

    lead = ""


class TooLarge(Refused):
    """A model beyond a budget."""

    lead = "too large a model: "


@dataclass(frozen=True)
class Budgets:
    """What a model may take. Real models stay far below; larger ones make native libraries hang or crash.

    Attributes:
        file_bytes: of the ``.onnx`` file itself: protobuf ends at 2 GiB.
        nodes: in all graphs and bodies, with every function call expanded.
        parts: fields of the file that are read.
        attributes: of one node.
        depth: nesting of bodies. Protobuf's parsers, with which every other tool reads a model, go 100 messages deep,
            and a body lies three deeper than the graph around it; this leaves some for what passes add.
        calls: nesting of calls of functions.
        elements: of one tensor.
        rank: dimensions of one tensor.
        name: characters of one name.
        dense: bytes of a sparse tensor, once made dense.
    """

    file_bytes: int = (1 << 31) - 1
    nodes: int = 100_000
    parts: int = MOST_FIELDS
    attributes: int = 1000
    depth: int = 28
    calls: int = 16
    elements: int = 1 << 40
    rank: int = 64
    name: int = 4096
    dense: int = 1 << 30


@dataclass(frozen=True)
class External:
    """The place of a tensor's values outside the file: ``location`` is relative to the model's folder."""

    tensor: str
    location: str
    offset: int
    length: int


@dataclass
class Tensor:
    """Attributes are those of TensorProto; ``counts`` says how many values each data field holds."""

    name: Name = ""
    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    raw: int | None = None
    counts: dict[int, int] = field(default_factory=dict)
    is_external: bool = False
    entries: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Attribute:
    """One attribute of a node: its name, its declared type, and the numbers of the fields that hold something.

    ``integer`` is its value where that is one number.
    """

    name: Name = ""
    type: int = 0
    integer: int = 0
    reference: Name = ""
    held: set[int] = field(default_factory=set)


@dataclass
class Node:
    """One node; ``bodies`` are the graphs among its attributes."""

    op_type: Name = ""
    domain: Name = ""
    overload: Name = ""
    name: Name = ""
    inputs: list[Name] = field(default_factory=list)
    outputs: list[Name] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    bodies: list[Graph] = field(default_factory=list)

    @property
    def label(self) -> str:
        """How messages name it."""
        name = self.name or next(filter(None, self.outputs), "") or self.op_type
        return f"node {name!r}"


@dataclass
class Value:
    """A declared input, output or inner value, or a constant.

    Attributes:
        dims: the sizes that are numbers.
        kind: element type of a tensor, as TensorProto numbers it; 0 where it is unknown, and for all but tensors.
    """

    name: Name = ""
    dims: list[int] = field(default_factory=list)
    kind: int = 0


@dataclass
class Graph:
    """A graph, a body, or a function; ``declared`` are the values inside whose types it states."""

    nodes: list[Node] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    constants: list[Value] = field(default_factory=list)
    declared: list[Value] = field(default_factory=list)


@dataclass
class Function:
    """A function that the model defines, with the opsets of its nodes."""

    domain: Name = ""
    name: Name = ""
    overload: Name = ""
    graph: Graph = field(default_factory=Graph)
    opsets: dict[Name, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity that nodes call it by."""
        return self.domain, self.name, self.overload


@dataclass
class Model:
    """A whole model."""

    ir_version: int = 0
    opsets: dict[Name, int] = field(default_factory=dict)
    graph: Graph | None = None
    functions: list[Function] = field(default_factory=list)
    external: list[External] = field(default_factory=list)
