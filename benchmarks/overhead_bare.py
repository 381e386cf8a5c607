"""The library calls behind an int8 build of a one-input model, with nothing around them; see overhead.py.

python benchmarks/overhead_bare.py MODEL.onnx DATA.npy WORKDIR

onnxsim and Polygraphy import torch where it is installed, and trtpipe keeps them from it. With HIDE_TORCH=1 in the
environment it is hidden from them here too, as on a machine without torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

CHECK = "import onnx, sys; onnx.checker.check_model(sys.argv[1]); onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"
SIMPLIFY = """
import os, sys
if os.environ.get("HIDE_TORCH"):
    sys.modules["torch"] = None
import onnx, onnxsim
simplified, _ = onnxsim.simplify(onnx.load(sys.argv[1]))
onnx.save(onnx.version_converter.convert_version(simplified, 19), sys.argv[2])
"""
BUILD = """
import sys, tensorrt_rtx as trt
log = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(log)
network = builder.create_network(0)
assert trt.OnnxParser(network, log).parse_from_file(sys.argv[1])
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
profile.set_shape("image", (1, 3, 224, 224), (1, 3, 224, 224), (8, 3, 224, 224))
config.add_optimization_profile(profile)
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
open(sys.argv[2], "wb").write(builder.build_serialized_network(network, config))
"""


def child(script: str, *arguments: Path) -> None:
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, capture_output=True)


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def observed(path: Path, out: Path) -> list[str]:
    """Expose the inputs of weighted nodes, and return their names."""
    import onnx

    model = onnx.load(path)
    wanted = [node.input[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    names = [name for name in dict.fromkeys(wanted) if name != "image"]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(model, out)
    return names


def main() -> None:
    source, data_path, work = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    model, simplified, exposed = work / "bare_model.onnx", work / "bare_simplified.onnx", work / "bare_exposed.onnx"
    child(CHECK, source, model)
    child(SIMPLIFY, model, simplified)
    data = np.load(data_path, mmap_mode="r")
    for path in (model, simplified):
        runner = session(path)
        for row in data[:2]:
            runner.run(None, {"image": row[np.newaxis]})
    observed(simplified, exposed)
    runner = session(exposed)
    amax: dict[str, float] = {}
    for row in data:
        for output, value in zip(runner.get_outputs(), runner.run(None, {"image": row[np.newaxis]}), strict=True):
            amax[output.name] = max(amax.get(output.name, 0.0), float(value.max()), -float(value.min()))
    amax["image"] = float(np.abs(data).max())
    lowered = work / "bare_lowered.onnx"
    quantize(simplified, lowered, amax)
    child(BUILD, lowered, work / "bare.plan")
    compare([session(path) for path in (model, simplified, lowered)], data)
    runner, feed = session(lowered), {"image": np.asarray(data[:1])}
    begin = time.perf_counter()
    while time.perf_counter() - begin < 1.2:
        runner.run(None, feed)


def quantize(path: Path, out: Path, amax: dict[str, float]) -> None:
    """Insert the same Q/DQ pairs with onnx's helpers alone."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    done: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[1] in weights:
            x, w = node.input[0], node.input[1]
            if x not in done:
                graph.initializer.append(helper.make_tensor(f"{x}_s", TensorProto.FLOAT, [], [amax[x] / 127 or 1.0]))
                graph.initializer.append(helper.make_tensor(f"{x}_z", TensorProto.INT8, [], [0]))
                nodes.append(helper.make_node("QuantizeLinear", [x, f"{x}_s", f"{x}_z"], [f"{x}_q"]))
                nodes.append(helper.make_node("DequantizeLinear", [f"{x}_q", f"{x}_s", f"{x}_z"], [f"{x}_dq"]))
                done[x] = f"{x}_dq"
            array = weights[w]
            scale = (np.abs(array).reshape(len(array), -1).max(axis=1) / 127).astype(np.float32)
            steps = np.rint(array / scale.reshape(-1, *[1] * (array.ndim - 1))).astype(np.int8)
            graph.initializer.append(numpy_helper.from_array(steps, f"{w}_q"))
            graph.initializer.append(numpy_helper.from_array(scale, f"{w}_s"))
            graph.initializer.append(numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{w}_z"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{w}_q", f"{w}_s", f"{w}_z"], [f"{w}_dq"], axis=0))
            node.input[0], node.input[1] = done[x], f"{w}_dq"
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.save(model, out)


def compare(runners: list[ort.InferenceSession], data: np.ndarray) -> None:
    """Polygraphy's comparison of all outputs with the first runner's."""
    if os.environ.get("HIDE_TORCH"):
        sys.modules["torch"] = None  # type: ignore[assignment]
    from polygraphy.comparator import Comparator, IterationResult, RunResults, SimpleCompareFunc
    from polygraphy.logger import G_LOGGER

    outputs = [[runner.run(None, {"image": row[np.newaxis]})[0] for row in data] for runner in runners]
    for other in outputs[1:]:
        results = RunResults()
        for name, values in (("found", other), ("wanted", outputs[0])):
            results.append((name, [IterationResult({"logits": np.concatenate(values)}, runtime=0.0, runner_name=name)]))
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            Comparator.compare_accuracy(results, compare_func=SimpleCompareFunc(check_error_stat="mean"))


if __name__ == "__main__":
    main()
