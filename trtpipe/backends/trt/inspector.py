"""What the builder says of the engine it has just made: from TensorRT's engine inspector, or from the builder's log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtpipe.backends.trt.layer_info import node_name, read_dump, read_inspector, separate_nodes
from trtpipe.engine.report import EngineReport

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.backends.trt.errors import Log

_QUANTIZERS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_CASTS = frozenset({"CAST"})


def describe(trt: Any, network: Any, log: Log, plan: Path, free: int, *, opens: bool) -> EngineReport | None:
    """Every layer of the engine in ``plan``; ``None`` where the builder says nothing.

    Args:
        network: what was built, for the kinds of its layers.
        log: what the builder said meanwhile.
        free: the length that dynamic dimensions count as.
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
        separate=separate_nodes(layers, _nodes(network, _QUANTIZERS), _nodes(network, _CASTS)),
    )


def _nodes(network: Any, kinds: frozenset[str]) -> frozenset[str]:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return frozenset(node_name(layer.name) for layer in layers if layer.type.name in kinds)


def _inspect(trt: Any, plan: Path, log: Log) -> str:
    """The inspector's JSON; empty where the engine does not open here."""
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        return ""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
