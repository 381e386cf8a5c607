"""What the builder's own dump of the finished engine says: how many layers there are, and in which types they compute.

With detailed profiling verbosity both flavours log one message that lists every layer on one line, for example
``Name: n0, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,3], Datatype: Half, ... }], Outputs: [...], ...``.
Classic TensorRT writes ``Format/Datatype: Channel major FP16 format ...`` for its own layers instead.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

#: How a message with the dump can be told from all others.
DUMP_MARK = "Layers:\nName: "

_LAYER = re.compile(r"^Name: .*, LayerType: (?P<kind>[^,]+), (?P<rest>.*)$")
_TENSORS = re.compile(
    r"(?:Inputs|Outputs): \[(?P<tensors>.*?)\](?=, (?:Constants|Outputs|ParameterType|TacticName)|,? *$)"
)
_TYPE = re.compile(r"Datatype: (?P<words>[^,}]+)")
_SHORT = {
    "FP32": "Float",
    "FP16": "Half",
    "BF16": "BFloat16",
    "INT8": "Int8",
    "INT4": "Int4",
    "INT32": "Int32",
    "INT64": "Int64",
    "BOOL": "Bool",
}
_LONG = frozenset({*_SHORT.values(), "FP8", "FP4", "FP4E2M1", "UInt8", "E8M0"})


@dataclass(frozen=True)
class LayerSummary:
    """The layers that touch tensors: how many, and how many compute in each type (of their first input)."""

    count: int
    precisions: dict[str, int]


def summarise_layers(dump: str) -> LayerSummary | None:
    """Read a layer dump; ``None`` if it holds no layer.

    A layer without an input counts under the type of its first output; layers with neither only steer others.
    """
    types = [found for line in dump.splitlines() if (found := _type_of(line)) is not None]
    if not types:
        return None
    return LayerSummary(len(types), dict(sorted(Counter(types).items())))


def _type_of(line: str) -> str | None:
    layer = _LAYER.match(line)
    if layer is None:
        return None
    for tensors in _TENSORS.finditer(layer["rest"]):
        if found := _TYPE.search(tensors["tensors"]):
            return _normalised(found["words"])
    return None


def _normalised(words: str) -> str:
    for word in words.split():
        if word in _LONG:
            return word
        if word.upper() in _SHORT:
            return _SHORT[word.upper()]
    return words.strip()
