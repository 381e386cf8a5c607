"""What is known of a model before anything native reads it: names, operators, types and lengths, no values."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Names of a value, a node or an operator. ``str`` once they are known to be clean.
Name = str


@dataclass(frozen=True)
class External:
    """Where a tensor's values lie outside the file: ``location`` is relative to the model's folder."""

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
    """A declared input, output or inner value; ``dims`` are the sizes that are numbers."""

    name: Name = ""
    dims: list[int] = field(default_factory=list)


@dataclass
class Graph:
    """A graph, a body, or a function."""

    nodes: list[Node] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    constants: list[Name] = field(default_factory=list)


@dataclass
class Function:
    """A function of the model's own, with the opsets its nodes are from."""

    domain: Name = ""
    name: Name = ""
    overload: Name = ""
    graph: Graph = field(default_factory=Graph)
    opsets: dict[Name, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What nodes call it by."""
        return self.domain, self.name, self.overload


@dataclass
class Model:
    """A whole model."""

    ir_version: int = 0
    opsets: dict[Name, int] = field(default_factory=dict)
    graph: Graph | None = None
    functions: list[Function] = field(default_factory=list)
    external: list[External] = field(default_factory=list)
