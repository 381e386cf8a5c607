"""How large a model may be before anything else is asked of it, and the refusal of one that is larger or broken."""

from __future__ import annotations

from dataclasses import dataclass


class Refused(Exception):
    """What is wrong with the model. The door (``check_model``) adds the file and makes it an InputError."""

    lead = "not a valid ONNX model: "

    def __init__(self, message: str, remedy: str = "give an .onnx file as an exporter wrote it") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class Garbled(Refused):
    """The bytes are no protobuf message of this kind."""

    lead = "not an ONNX model, or cut short: "


class Unknown(Refused):
    """An operator that nobody knows: nothing is wrong with the file."""

    lead = ""


class TooLarge(Refused):
    """A model beyond a budget."""

    lead = "too large a model: "


@dataclass(frozen=True)
class Budgets:
    """What a model may take. Real models stay far below; what is beyond hangs or kills the libraries behind.

    Attributes:
        file_bytes: of the ``.onnx`` file itself: protobuf ends at 2 GiB.
        nodes: in all graphs and bodies, with every call of a function replaced by the function's nodes.
        parts: fields of the file that are looked at: a bound on memory for messages of no content.
        attributes: of one node.
        depth: bodies within bodies, and functions that call functions.
        elements: of one tensor.
        rank: dimensions of one tensor.
        name: characters of one name.
    """

    file_bytes: int = (1 << 31) - 1
    nodes: int = 100_000
    parts: int = 4_000_000
    attributes: int = 1000
    depth: int = 16
    elements: int = 1 << 40
    rank: int = 64
    name: int = 4096
