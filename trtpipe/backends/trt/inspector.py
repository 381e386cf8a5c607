"""The layers of an engine: from TensorRT's engine inspector, or from the builder's log.

With detailed profiling verbosity both TensorRT flavors log one message with a line for each layer, for example
``Name: n0, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,3], Datatype: Half, ... }], Outputs: [...], ...``.
TensorRT writes ``Format/Datatype: Channel major FP16 format ...`` for its own layers instead, and offers the same as
JSON through its engine inspector (NVIDIA TensorRT documentation, "Engine Inspector").
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from trtpipe.config.formats import FORMATS
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from trtpipe.backends.trt.errors import Log

_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+), (?P<rest>.*)$")
#: A list ends at the next field of the line.
_LIST = r"{}: \[(?P<tensors>.*?)\](?=, (?:Constants: |Outputs: |ParameterType: |TacticName: |StreamId: )|,? *$)"
_LISTS = {what: re.compile(_LIST.format(what)) for what in ("Inputs", "Constants", "Outputs")}
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), (?:Location: \w+, )?Dimensions: \[(?P<dims>[-\d,]*)\]"
    r".*?Datatype: (?P<words>[^,}]+?)(?:, Format: .*?)? ?\}"
)
_TACTIC = re.compile(r"TacticName: (?P<tactic>.*?), ")
_NODE = re.compile(r"\[ONNX Layer: (?P<node>.*?)\](?=\[ONNX Layer: |[\x1e\x1f]|[^\]]*$)")
#: What TensorRT calls a node without a name.
_UNNAMED = "node_of_"
#: TensorRT's words for an element type, in capitals -> the one that reports use.
_WORDS = {
    **{word.upper(): form.engine[0] for form in FORMATS for word in form.engine},
    **{word.upper(): word for word in ("Int32", "Int64", "Bool", "UInt8", "E8M0")},
}
_QUANTIZERS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_CASTS = frozenset({"CAST"})


def read_layers(trt: Any, network: Any, log: Log, plan: Path, free: int, *, opens: bool) -> EngineReport | None:
    """Every layer of the engine in ``plan``; ``None`` where neither the inspector nor the log reports any.

    Args:
        network: the network that was built, for the types of its layers.
        log: the builder's messages.
        free: the length that a dynamic dimension counts as.
        opens: whether the engine can be opened here, which its inspector needs.
    """
    inspected = _inspect(trt, plan, log) if opens else ""
    layers = read_inspector(inspected) if inspected else read_dump(log.dump)
    if not any(layer.is_kernel for layer in layers):
        return None
    return EngineReport(
        source="engine inspector" if inspected else "builder log",
        layers=layers,
        free=free,
        activation_memory=log.sizes.get("Activation"),
        weight_memory=log.sizes.get("Weights"),
        scratch_memory=log.sizes.get("Scratch"),
        separate=separate_nodes(layers, _network_nodes(network, _QUANTIZERS), _network_nodes(network, _CASTS)),
    )


def read_dump(dump: str) -> tuple[EngineLayer, ...]:
    """The layers in a dump of the log."""
    return tuple(layer for line in dump.split("\n") if (layer := _layer(line)) is not None)


def read_inspector(text: str) -> tuple[EngineLayer, ...]:
    """The layers in the JSON of TensorRT's engine inspector; those without details have only a name.

    Raises:
        ValueError: it is not JSON.
    """
    found = json.loads(text)
    layers = found.get("Layers", []) if isinstance(found, dict) else []
    return tuple(_from_json(entry) for entry in layers)


def separate_nodes(
    layers: tuple[EngineLayer, ...], quantizers: Collection[str], casts: Collection[str]
) -> tuple[str, ...]:
    """Q/DQ nodes that became kernels of their own: names, each once.

    Such a kernel only quantizes, dequantizes and casts.

    Args:
        quantizers, casts: names of the network's Quantize and Dequantize layers, and of its Cast layers.
    """
    movers = {*quantizers, *casts}
    alone = (node for layer in layers if set(layer.nodes) <= movers for node in layer.nodes)
    return tuple(dict.fromkeys(node for node in alone if node in quantizers))


def node_name(text: str) -> str:
    """A node as the lowering record names it: without the bodies around it; an unnamed one by its first output."""
    return text.partition(" | ")[0].removeprefix(_UNNAMED)


def _layer(line: str) -> EngineLayer | None:
    found = _LAYER.match(line)
    if found is None:
        return None
    before, _, metadata = found["rest"].partition("Metadata: ")
    tactic = _TACTIC.search(before)
    tensors = {what: _tensors(form, before) for what, form in _LISTS.items()}
    texts = {"Metadata": metadata, "TacticName": "" if tactic is None else tactic["tactic"]}
    return _from_json({"Name": found["name"], "LayerType": found["kind"].strip(), **tensors, **texts})


def _tensors(form: re.Pattern[str], text: str) -> list[dict[str, Any]]:
    """The tensors of a list in the dump, as the inspector's JSON has them."""
    found = form.search(text)
    return [
        {"Name": each["name"], "Datatype": each["words"], "Dimensions": re.findall(r"-?\d+", each["dims"])}
        for each in _TENSOR.finditer("" if found is None else found["tensors"])
    ]


def _nodes(metadata: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node_name(found["node"]) for found in _NODE.finditer(metadata)))


def _from_json(entry: Any) -> EngineLayer:
    if not isinstance(entry, dict):  # without detailed verbosity there are only names
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


def _network_nodes(network: Any, kinds: frozenset[str]) -> frozenset[str]:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return frozenset(node_name(layer.name) for layer in layers if layer.type.name in kinds)


def _inspect(trt: Any, plan: Path, log: Log) -> str:
    """The inspector's JSON; empty if the engine does not open here."""
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        return ""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
