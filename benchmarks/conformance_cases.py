"""ONNX's own node tests as models that users have: what is a parameter of an operator is a constant of the graph.

The tests pass axes, shapes, scales and weights as graph inputs, because they are generated one operator a model.
Exporters write them as constants, and TensorRT wants most of them to be. So every graph input that feeds a formal
parameter named below becomes an initializer with the value that the test gives it; what is left are the data inputs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnx.backend.test.case.test_case import TestCase

#: formal parameters, by the names in ONNX's schemas, that are constants in models of real use
_PARAMETERS = frozenset(
    {
        "axes", "axis", "shape", "pads", "repeats", "sizes", "scales", "roi", "starts", "ends", "steps",
        "split", "depth", "values", "M", "max_output_boxes_per_class", "iou_threshold", "score_threshold",
        "constant_value", "min", "max", "ratio", "training_mode", "start", "limit", "delta", "size", "output_shape",
        "image_shape", "block_shape", "dft_length", "frame_step", "frame_length", "window", "num_mel_bins",
        "target_type", "sample_rate", "lower_edge_hertz", "upper_edge_hertz", "y_scale", "y_zero_point", "x_scale",
        "x_zero_point",
        "a_scale", "a_zero_point", "b_scale", "b_zero_point", "w_scale", "w_zero_point", "W", "R", "P", "w", "slope",
        "scale", "bias", "mean", "var", "input_mean", "input_var", "Scale",
    }
)  # fmt: skip
#: operator -> further parameters of it, whose names mean data elsewhere
_OF_OPERATOR = {
    "Conv": {"B"}, "ConvTranspose": {"B"}, "DeformConv": {"B"}, "QLinearConv": {"B"}, "LSTM": {"B"}, "GRU": {"B"},
    "RNN": {"B"}, "Gemm": {"B", "C"}, "BatchNormalization": {"B"}, "InstanceNormalization": {"B"},
    "LayerNormalization": {"B"}, "QLinearMatMul": {"b"}, "ConstantOfShape": {"input"}, "TopK": {"K", "k"},
}  # fmt: skip
#: operators whose result is drawn at random
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True)
class Case:
    """One node test.

    Attributes:
        name: as ``onnx.backend.test`` calls it.
        model: with parameters as initializers.
        feed: values of the remaining inputs, in their order.
        expected: values of the outputs by name, as the test has them.
        operators: those in the model, as they are in the test.
        random: whether the result is drawn at random, so that only its form can be judged.
    """

    name: str
    model: onnx.ModelProto
    feed: dict[str, Any]
    expected: dict[str, Any]
    operators: tuple[str, ...]
    random: bool
    baked: tuple[str, ...] = field(default=())


def collect() -> list[Case]:
    """All node tests of the installed onnx package, in the order of their names."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests overflow and divide by zero on purpose
        tests = {test.name: test for test in collect_testcases(None)}
    return [_prepared(tests[name], tests) for name in sorted(tests)]


def _prepared(test: TestCase, tests: Mapping[str, TestCase]) -> Case:
    """The test with its parameters made constants.

    Args:
        tests: all tests by name. One that holds the body of a function has the parameters of the test that calls it.
    """
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    given, wanted = test.data_sets[0]
    values = {info.name: _array(value) for info, value in zip(model.graph.input, given, strict=False)}
    expected = {info.name: _array(value) for info, value in zip(model.graph.output, wanted, strict=False)}
    caller = tests.get(test.name.partition("_expanded")[0], test)
    names = parameters(model) | parameters(caller.model)
    baked = tuple(name for name in values if name in names and isinstance(values[name], np.ndarray | np.generic))
    for name in baked:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values[name]), name))
    kept = [info for info in model.graph.input if info.name not in baked]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    operators = tuple(dict.fromkeys(node.op_type for node in nodes_of(model.graph)))
    return Case(
        name=test.name,
        model=model,
        feed={info.name: values[info.name] for info in kept if info.name in values},
        expected=expected,
        operators=operators,
        random=not _RANDOM.isdisjoint(operators) or _drops(model),
        baked=baked,
    )


def parameters(model: onnx.ModelProto) -> set[str]:
    """Names of the values that feed a parameter of an operator anywhere in the model."""
    versions = {imported.domain: imported.version for imported in model.opset_import}
    found: set[str] = set()
    for node in nodes_of(model.graph):
        try:
            schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError:
            continue
        own = _PARAMETERS | _OF_OPERATOR.get(node.op_type, set())
        found.update(name for formal, name in zip(schema.inputs, node.input, strict=False) if formal.name in own)
    return found


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of all bodies inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from nodes_of(body)


def _array(value: Any) -> Any:
    """An array where the test has one; sequences, optionals and maps stay what they are."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value


def _drops(model: onnx.ModelProto) -> bool:
    """Whether a Dropout is in training mode, with a share to drop."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in nodes_of(model.graph):
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            mode, ratio = constants.get(node.input[2]), constants.get(node.input[1])
            return bool(mode is not None and mode) and (ratio is None or float(ratio) > 0)
    return False
