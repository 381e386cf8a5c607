"""Reading the builder's own description of a finished engine into layers.

With detailed profiling verbosity both flavors log one message that lists every layer on one line, for example
``Name: n0, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,3], Datatype: Half, ... }], Outputs: [...], ...``.
Classic TensorRT writes ``Format/Datatype: Channel major FP16 format ...`` for its own layers instead, and gives the
same as JSON through its engine inspector (NVIDIA TensorRT documentation, "Engine Inspector").
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from trtpipe.config.formats import FORMATS
from trtpipe.engine.report import EngineLayer, EngineTensor

if TYPE_CHECKING:
    from collections.abc import Collection

#: How a message with the dump can be told from all others.
DUMP_MARK = "Layers:\nName: "

_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+), (?P<rest>.*)$")
#: A list ends where the next field of the line begins.
_LIST = r"{}: \[(?P<tensors>.*?)\](?=, (?:Constants: |Outputs: |ParameterType: |TacticName: |StreamId: )|,? *$)"
_LISTS = {what: re.compile(_LIST.format(what)) for what in ("Inputs", "Constants", "Outputs")}
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), (?:Location: \w+, )?Dimensions: \[(?P<dims>[-\d,]*)\]"
    r".*?Datatype: (?P<words>[^,}]+?)(?:, Format: .*?)? ?\}"
)
_TACTIC = re.compile(r"TacticName: (?P<tactic>.*?), ")
_METADATA = re.compile(r"Metadata: (?P<text>.*)$")
_NODE = re.compile(r"\[ONNX Layer: (?P<node>.*?)\](?=\[ONNX Layer: |[\x1e\x1f]|[^\]]*$)")
#: What TensorRT calls a node without a name.
_UNNAMED = "node_of_"
#: TensorRT's words for a type, in capitals -> the one that reports use.
_WORDS = {
    **{word.upper(): form.engine[0] for form in FORMATS for word in form.engine},
    **{word.upper(): word for word in ("Int32", "Int64", "Bool", "UInt8", "E8M0")},
}


def read_dump(dump: str) -> tuple[EngineLayer, ...]:
    """The layers of a dump in the log; none if it holds none."""
    return tuple(layer for line in dump.split("\n") if (layer := _layer(line)) is not None)


def read_inspector(text: str) -> tuple[EngineLayer, ...]:
    """The layers of what TensorRT's engine inspector gives as JSON; those without details have only a name.

    Raises:
        ValueError: it is not JSON.
    """
    found = json.loads(text)
    layers = found.get("Layers", []) if isinstance(found, dict) else []
    return tuple(_from_json(entry) for entry in layers)


def separate_nodes(
    layers: tuple[EngineLayer, ...], quantizers: Collection[str], casts: Collection[str]
) -> tuple[str, ...]:
    """Names of the quantizers in kernels that do nothing but quantize, dequantize and cast, each once.

    Args:
        quantizers, casts: names of the network's Quantize and Dequantize layers, and of its Cast layers.
    """
    movers = {*quantizers, *casts}
    alone = (node for layer in layers if set(layer.nodes) <= movers for node in layer.nodes)
    return tuple(dict.fromkeys(node for node in alone if node in quantizers))


def node_name(text: str) -> str:
    """A node as the lowering record names it: without the bodies around it; without a name, by its first output."""
    return text.partition(" | ")[0].removeprefix(_UNNAMED)


def _layer(line: str) -> EngineLayer | None:
    found = _LAYER.match(line)
    if found is None:
        return None
    rest, metadata = found["rest"], _METADATA.search(found["rest"])
    before = rest if metadata is None else rest[: metadata.start()]
    tactic = _TACTIC.search(before)
    return EngineLayer(
        name=found["name"],
        kind=found["kind"].strip(),
        inputs=_tensors("Inputs", before),
        constants=_tensors("Constants", before),
        outputs=_tensors("Outputs", before),
        nodes=() if metadata is None else _nodes(metadata["text"]),
        tactic="" if tactic is None else tactic["tactic"],
    )


def _tensors(what: str, text: str) -> tuple[EngineTensor, ...]:
    found = _LISTS[what].search(text)
    if found is None:
        return ()
    return tuple(
        EngineTensor(
            name=tensor["name"],
            type=_normalized(tensor["words"]),
            dims=tuple(int(dim) for dim in tensor["dims"].split(",") if dim),
        )
        for tensor in _TENSOR.finditer(found["tensors"])
    )


def _nodes(metadata: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node_name(found["node"]) for found in _NODE.finditer(metadata)))


def _from_json(entry: Any) -> EngineLayer:
    if not isinstance(entry, dict):  # an engine built without detailed verbosity tells names alone
        return EngineLayer(name=str(entry), kind="")
    weights = [_json_weights(entry[what], what) for what in ("Weights", "Bias") if isinstance(entry.get(what), dict)]
    return EngineLayer(
        name=str(entry.get("Name", "")),
        kind=str(entry.get("LayerType", "")),
        inputs=_json_tensors(entry.get("Inputs")),
        constants=(*_json_tensors(entry.get("Constants")), *(found for found in weights if found.dims != (0,))),
        outputs=_json_tensors(entry.get("Outputs")),
        nodes=_nodes(str(entry.get("Metadata", ""))),
        tactic=str(entry.get("TacticName", "")),
    )


def _json_tensors(entries: Any) -> tuple[EngineTensor, ...]:
    return tuple(
        EngineTensor(
            name=str(entry.get("Name", "")),
            type=_normalized(str(entry.get("Datatype") or entry.get("Format/Datatype", ""))),
            dims=tuple(int(dim) for dim in entry.get("Dimensions", ())),
        )
        for entry in entries or ()
        if isinstance(entry, dict)
    )


def _json_weights(entry: dict[str, Any], name: str) -> EngineTensor:
    return EngineTensor(name=name, type=_normalized(str(entry.get("Type", ""))), dims=(int(entry.get("Count", 0)),))


def _normalized(words: str) -> str:
    for word in words.split():
        if word.upper() in _WORDS:
            return _WORDS[word.upper()]
    return words.strip()
