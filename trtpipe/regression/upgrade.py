"""The upgrade gate: the engine that one lowered graph becomes with another TensorRT, by the builders' reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal, TypeAlias

from trtpipe.config.units import format_bytes
from trtpipe.regression.gate import CheckReport, Finding, some
from trtpipe.report.verdict import WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.engine.record import EngineRecord
    from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor

#: Memory that differs by no more is that of another alignment.
_ALIGNMENT = 0.01

Nodes: TypeAlias = frozenset[str]


@dataclass(frozen=True)
class Stored:
    """Which weights of the graph lie in the plans byte by byte.

    Attributes:
        before, now: their names, in the old plan and in the new one.
        constants: how many the graph has.
    """

    before: frozenset[str] = frozenset()
    now: frozenset[str] = frozenset()
    constants: int = 0


_UNKNOWN = Stored()


class UpgradeReport(CheckReport):
    """The result of ``check_upgrade``: every engine of a build, against the one another TensorRT builds of its graph.

    Attributes:
        baseline: the TensorRT of the build, such as ``tensorrt-rtx 1.6.1.120``.
        versions: those that it was compared with.
    """

    versions: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The result in one line."""
        word = WORDS["passed" if self.passed else "failed"]
        return (
            f"{word}: engines of {self.build} by {', '.join(self.versions)} against those by {self.baseline}; "
            "engine reports compared, no engine executed"
        )


@dataclass(frozen=True)
class _Difference:
    """What differs in one respect; nothing where ``text`` is empty. One that is not ``worse`` is a note.

    Attributes:
        same: what is said where nothing differs.
    """

    text: str = ""
    worse: bool = True
    same: str = "the same"


def compare_engines(old: EngineRecord, new: EngineRecord, stored: Stored = _UNKNOWN) -> tuple[Finding, ...]:
    """Two engines of one lowered graph, node by node.

    Every difference is said. Of the accuracy gate are the types that a node reads and writes, the weights of its
    kernels, and inputs and outputs; of the latency gate a kernel whose nodes are no longer in one, more kernels, and
    more than 1 % more activation memory. Fewer kernels and less memory are notes.

    Args:
        new: built of the same graph, for the same target, with the same options.
        stored: weights that lie in the old plan and not in the new one count as changed.

    Example:
        >>> record = trtpipe.EngineRecord.read("out/sm89.plan.json")
        >>> [finding.status for finding in compare_engines(record, record)]
        ['ok', 'ok', 'ok', 'ok', 'ok']
    """
    name = f"{', '.join(new.targets or (new.target,))}, {builder_of(new)}"
    found = [_finding(name, "accuracy", "inputs and outputs", _interface(old, new))]
    if old.report is None or new.report is None:
        message = "one of the builders reports no layers, so that only memory can be compared"
        found.append(Finding(gate="latency", name=f"{name}: layers", status="skipped", message=message))
    else:
        found.append(_finding(name, "accuracy", "precision", _precision(old.report, new.report)))
        found.append(_finding(name, "accuracy", "weights", _weights(old, new, stored)))
        found.append(_finding(name, "latency", "fusion", _fusion(old.report, new.report)))
    memory = _memory("activation memory", old.activation_bytes, new.activation_bytes)
    found.append(_finding(name, "latency", "activation memory", memory))
    return tuple(found)


def not_built(target: str, version: str, reason: str) -> Finding:
    """The finding on a target that a TensorRT builds no engine for."""
    return Finding(gate="build", name=f"{target}, {version}", status="failed", message=f"cannot be built: {reason}")


def builder_of(record: EngineRecord) -> str:
    """What built an engine: ``tensorrt-rtx 1.6.1.120``."""
    return f"{record.flavor} {record.version}"


def _finding(name: str, gate: Literal["accuracy", "latency"], what: str, found: _Difference) -> Finding:
    status: Literal["ok", "note", "failed"] = "ok" if not found.text else "failed" if found.worse else "note"
    return Finding(gate=gate, name=f"{name}: {what}", status=status, message=found.text or found.same)


def _interface(old: EngineRecord, new: EngineRecord) -> _Difference:
    return _Difference(old.io.difference(new.io) or "")


def _precision(old: EngineReport, new: EngineReport) -> _Difference:
    """Nodes that read or write other types in the kernels they are in, Conv and GEMM layers first."""
    before, after = _types(old), _types(new)
    changed = [
        f"{node}: {before[node]} -> {after[node]}"
        for node in sorted(before.keys() & after.keys())
        if before[node] != after[node]
    ]
    return _Difference(f"{len(changed)} of {len(before)} nodes changed: {some(changed)}" if changed else "")


def _types(report: EngineReport) -> dict[str, str]:
    """Node -> the types it reads and writes, as ``Int8 to Half``."""
    holders: dict[str, list[EngineLayer]] = {}
    for layer in report.kernels:
        for node in layer.nodes:
            holders.setdefault(node, []).append(layer)
    found = {}
    for node, layers in holders.items():
        judged = [layer for layer in layers if layer.is_conv_gemm] or layers
        read = [tensor for layer in judged for tensor in layer.inputs]
        written = [tensor for layer in judged for tensor in layer.outputs]
        found[node] = f"{_words(read)} to {_words(written)}"
    return found


def _words(tensors: Sequence[EngineTensor]) -> str:
    return " and ".join(sorted({tensor.type for tensor in tensors})) or "nothing"


def _weights(old: EngineRecord, new: EngineRecord, stored: Stored) -> _Difference:
    """Weights with other bytes; kernels that hold others; memory."""
    if old.report is None or new.report is None:
        return _Difference()
    before, after = _kernel_weights(old.report), _kernel_weights(new.report)
    parts = []
    for nodes in _joined([*before, *after]):
        held, now = (
            sum((weights for each, weights in found.items() if each <= nodes), Counter()) for found in (before, after)
        )
        if held != now:
            parts.append(f"{_named(nodes)}: {_held(held)} -> {_held(now)}")
    parts = [f"{len(parts)} kernels changed: {some(parts)}"] if parts else []
    if lost := stored.before - stored.now:
        parts.append(f"{len(lost)} are stored with other bytes, or not as they are: {some(sorted(lost))}")
    memory = _memory("weight memory", old.weight_bytes, new.weight_bytes)
    if memory.text:
        parts.append(memory.text)
    count = f"the same; {len(stored.before)} of {stored.constants} constants compared byte by byte"
    same = count if stored.constants else "the same"
    return _Difference("; ".join(parts), worse=len(parts) > bool(memory.text) or memory.worse, same=same)


def _kernel_weights(report: EngineReport) -> dict[Nodes, Counter[tuple[str, int]]]:
    """The nodes of a kernel -> how many weights of each type and number of elements it holds.

    Single values are left out: builders add some of their own, such as the factors of a GEMM.
    """
    found: dict[Nodes, Counter[tuple[str, int]]] = {}
    for layer in report.kernels:
        held = found.setdefault(frozenset(layer.nodes), Counter())
        held.update((each.type, size) for each in layer.constants if (size := prod(each.dims)) > 1)
    return found


def _joined(kernels: Sequence[Nodes]) -> list[Nodes]:
    """Kernels that have nodes in common as one: between them weights may move, which is a matter of fusion."""
    found: list[Nodes] = []
    for nodes in dict.fromkeys(kernels):
        shared = [each for each in found if each & nodes]
        found = [*(each for each in found if each not in shared), nodes.union(*shared)]
    return found


def _held(weights: Counter[tuple[str, int]]) -> str:
    texts = [f"{type_}[{elements}]" + f" x {count}" * (count > 1) for (type_, elements), count in weights.items()]
    return " and ".join(sorted(texts)) or "none"


def _fusion(old: EngineReport, new: EngineReport) -> _Difference:
    """Nodes that shared a kernel and no longer do; nodes and Q/DQ pairs with a kernel that had none; more kernels."""
    before, after = ([frozenset(layer.nodes) for layer in report.kernels] for report in (old, new))
    known, found = frozenset().union(*before), frozenset().union(*after)
    split = [nodes & found for nodes in dict.fromkeys(before) if not any(nodes & found <= each for each in after)]
    parts = [f"no longer one kernel: {_named(nodes)}" for nodes in split]
    more = Counter(after) - Counter(before)
    parts += [f"in more kernels: {_named(nodes)}" for nodes in more if nodes in before]
    parts += [f"in a kernel, and was in none: {node}" for node in sorted(found - known)]
    parts += [f"Q/DQ in a kernel of its own: {node}" for node in new.separate if node not in old.separate]
    if len(after) > len(before) and not parts:
        parts = [f"a kernel of its own: {_named(nodes)}" for nodes in more]
    counts = f"{len(before)} kernels before, {len(after)} now"
    if parts or len(after) > len(before):
        return _Difference(f"{counts}; {some(parts)}" if parts else counts)
    merged = [nodes for nodes in dict.fromkeys(after) if not any(nodes <= each for each in before)]
    gained = [f"one kernel now: {_named(nodes)}" for nodes in merged]
    changed = len(after) < len(before) or bool(gained)
    return _Difference(f"{counts}; {some(gained)}" if gained else counts if changed else "", worse=False)


def _memory(what: str, old: int | None, new: int | None) -> _Difference:
    if old is None or new is None or abs(new - old) <= _ALIGNMENT * old:
        return _Difference()
    text = f"{what} {format_bytes(old)} before, {format_bytes(new)} now"
    return _Difference(text, worse=new > old)


def _named(nodes: Nodes) -> str:
    return some(sorted(nodes)) or "copies of no node"
