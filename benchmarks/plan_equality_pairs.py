"""Pairs of models that differ in one attribute of their only node and in what they compute.

The models are ONNX's own node tests. What another value of an attribute may be is taken from the tests themselves,
where an operator has several, and else made by type: another count, another flag, a float beside it. Whether the pair
computes different things is for ONNX Runtime, or ONNX's reference, to say.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
from conformance_cases import Case
from onnx.reference import ReferenceEvaluator

_Value: TypeAlias = "int | float | bytes | list[int] | list[float] | list[bytes]"
#: operator, attribute
_Key: TypeAlias = tuple[str, str]

_KINDS = (
    onnx.AttributeProto.INT,
    onnx.AttributeProto.FLOAT,
    onnx.AttributeProto.STRING,
    onnx.AttributeProto.INTS,
    onnx.AttributeProto.FLOATS,
    onnx.AttributeProto.STRINGS,
)
#: attributes that only name a form, a type of the output or a seed: another value is another interface
_OF_THE_INTERFACE = frozenset({"dtype", "to", "output_dtype", "output_datatype", "stash_type", "seed", "precision"})
#: operator and attribute whose other value leaves the result to the implementation
_FREE = frozenset({("TopK", "sorted")})
#: activations of recurrent networks, which the tests leave at their defaults
_ACTIVATIONS = (b"Relu", b"Tanh", b"Sigmoid", b"HardSigmoid", b"Softsign")
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Variant:
    """Another value for one attribute of one test's node."""

    case: Case
    attribute: str
    value: _Value


@dataclass(frozen=True)
class Computed:
    """A model and what it computes.

    Attributes:
        value: of the attribute that is varied, for people.
        outputs: for the test's data.
    """

    value: str
    model: onnx.ModelProto
    outputs: list[Any]


@dataclass(frozen=True)
class Group:
    """A test's model and others that differ from it, and from each other, in one attribute.

    Attributes:
        test: its name.
        members: the test's own first.
        feed: data for all of them.
    """

    test: str
    operator: str
    attribute: str
    members: tuple[Computed, ...]
    feed: dict[str, Any]

    def pairs(self) -> list[tuple[Computed, Computed]]:
        """Every two that compute different things."""
        return [(a, b) for a, b in combinations(self.members, 2) if differ(a.outputs, b.outputs)]


def variants(cases: Sequence[Case], most: int) -> list[Variant]:
    """What to vary: of each operator and attribute the first ``most`` tests that differ in rank or data type."""
    single = [case for case in cases if _is_single(case)]
    known = _known_values(single)
    forms: dict[_Key, set[tuple[object, ...]]] = defaultdict(set)
    found = []
    for case in single:
        node = case.model.graph.node[0]
        for name, attribute in _schema(case.model).attributes.items():
            key = (node.op_type, name)
            if name in _OF_THE_INTERFACE or key in _FREE or int(attribute.type) not in map(int, _KINDS):
                continue
            form = _form(case)
            if form in forms[key] or len(forms[key]) >= most:
                continue
            forms[key].add(form)
            values = _others(node, name, _current(case.model, name), known[key])
            found += [Variant(case, name, value) for value in values]
    return found


def _form(case: Case) -> tuple[object, ...]:
    """What makes another model of one operator worth varying: its attributes' names, ranks and data types."""
    arrays = [value for value in case.feed.values() if isinstance(value, np.ndarray)]
    names = sorted(attribute.name for attribute in case.model.graph.node[0].attribute)
    return (*names, *((value.ndim, str(value.dtype)) for value in arrays))


def computed(variant: Variant) -> Computed | None:
    """The varied model with its outputs; ``None`` where it is no model."""
    model = _with_attribute(variant.case.model, variant.attribute, variant.value)
    outputs = run(model, variant.case.feed)
    return None if outputs is None else Computed(_text(variant.value), _typed(model, outputs), outputs)


def grouped(made: Sequence[tuple[Variant, Computed]], most: int) -> list[Group]:
    """By test and attribute: the test's own model first, then at most ``most`` others that differ from it."""
    cases = {variant.case.name: variant.case for variant, _ in made}
    others: dict[_Key, list[Computed]] = defaultdict(list)
    for variant, other in made:
        others[variant.case.name, variant.attribute].append(other)
    groups = []
    for (test, name), found in sorted(others.items(), key=lambda item: item[0]):
        case = cases[test]
        outputs = run(case.model, case.feed)
        if outputs is None:
            continue
        own = Computed(_text(_current(case.model, name)), _typed(case.model, outputs), outputs)
        apart = [each for each in sorted(found, key=lambda each: each.value) if differ(outputs, each.outputs)]
        if apart:
            operator = case.model.graph.node[0].op_type
            groups.append(Group(test, operator, name, (own, *apart[:most]), case.feed))
    return groups


def _with_attribute(model: onnx.ModelProto, name: str, value: _Value) -> onnx.ModelProto:
    """A copy whose node has another value of an attribute, and whose outputs have no shape."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    node = other.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    for output in other.graph.output:
        output.type.tensor_type.ClearField("shape")
    return other


def _is_single(case: Case) -> bool:
    nodes = case.model.graph.node
    return len(nodes) == 1 and nodes[0].domain in ("", "ai.onnx") and not case.random


def _schema(model: onnx.ModelProto) -> Any:
    version = next(imported.version for imported in model.opset_import if imported.domain in ("", "ai.onnx"))
    return onnx.defs.get_schema(model.graph.node[0].op_type, version, "")


def _known_values(cases: Sequence[Case]) -> dict[_Key, list[_Value]]:
    """Operator and attribute -> the values that the tests and the schema give it, each once."""
    found: dict[_Key, list[_Value]] = defaultdict(list)
    for case in cases:
        for name in _schema(case.model).attributes:
            value = _current(case.model, name)
            values = found[case.model.graph.node[0].op_type, name]
            if value is not None and value not in values:
                values.append(value)
    return found


def _current(model: onnx.ModelProto, name: str) -> _Value | None:
    """The value of an attribute, or its default; ``None`` where it has none, or is no number, text, or list of them."""
    node = model.graph.node[0]
    default = _schema(model).attributes[name].default_value
    given = next((attribute for attribute in node.attribute if attribute.name == name), default)
    if given.type not in _KINDS:
        return None
    value: _Value = onnx.helper.get_attribute_value(given)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, bytes) else value


def _others(node: onnx.NodeProto, name: str, current: _Value | None, known: Sequence[_Value]) -> Iterator[_Value]:
    """Values to try instead, each once: the tests' own, then what the type suggests."""
    tried = [current]
    flag = isinstance(current, int) and all(value in (0, 1) for value in (current, *known))
    for value in (0, 1) if flag else (*known, *_made(node, name, current)):
        if value not in tried:
            tried.append(value)
            yield value


def _made(node: onnx.NodeProto, name: str, current: _Value | None) -> Iterator[_Value]:
    if name == "activations":
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[node.op_type]
        yield from ([kind] * count for kind in _ACTIVATIONS)
    elif name == "clip":
        yield from (0.1, 0.3)
    elif isinstance(current, float):
        yield from (current / 2 + 0.25, current * 2 + 0.5)
    elif isinstance(current, int):
        yield from (1 - current, 1, current + 1, current - 1, current * 2)
    elif isinstance(current, list):
        yield from ([each + step for each in current] for step in (1, -1) if all(isinstance(e, int) for e in current))
    elif name in ("strides", "dilations"):
        yield from ([2] * rank for rank in (2, 1, 3))


def run(model: onnx.ModelProto, feed: dict[str, Any]) -> list[Any] | None:
    """Outputs by ONNX Runtime, else by ONNX's reference; ``None`` where neither can."""
    arrays = {name: np.asarray(value) for name, value in feed.items() if not isinstance(value, list)}
    if len(arrays) < len(feed):
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, arrays))
    except Exception:  # noqa: BLE001  its C++ raises of every kind; what it cannot run the reference may
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(ReferenceEvaluator(model).run(None, arrays))
    except Exception:  # noqa: BLE001  nor has the reference errors of its own
        return None


def differ(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether any output differs by more than rounding."""
    for a, b in zip(first, second, strict=True):
        if not isinstance(a, np.ndarray | np.generic) or not isinstance(b, np.ndarray | np.generic):
            return False
        if a.shape != b.shape or a.dtype != b.dtype:
            return True
        if a.dtype.kind in "biuf":
            if not np.allclose(a.astype(np.float64), b.astype(np.float64), equal_nan=True, atol=_TOLERANCE):
                return True
        elif (a != b).any():
            return True
    return False


def _typed(model: onnx.ModelProto, outputs: Sequence[Any]) -> onnx.ModelProto:
    """A copy with the types and shapes of the outputs as they were computed."""
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    for info, value in zip(typed.graph.output, outputs, strict=True):
        kind = info.type.tensor_type.elem_type
        info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, kind, np.shape(value)))
    return typed


def _text(value: _Value | None) -> str:
    return value.decode() if isinstance(value, bytes) else repr(value)
