"""What exporting and building a small PyTorch network costs beside the libraries that do it, in processor time.

    python benchmarks/overhead_small.py [--precision fp16] [--rounds 3]

Two ways from the same factory take turns: `trtpipe build` with an empty cache, and the parts alone, each in a process
of its own: torch.export, conversion and PyTorch's own outputs; onnxsim; a build by TensorRT-RTX; outputs of both graphs
by onnxruntime, compared. A small network's times are those of imports and start-up, which is what is measured here.
The aim is a ratio of 1.3.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks_common import machine_line
from overhead import Cost, middle, watched

FACTORY = """
import numpy as np
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(),
              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers).eval(), (torch.randn(1, 3, 32, 32),)

def data():
    for seed in range(8):
        yield {"input": np.random.default_rng(seed).standard_normal((1, 3, 32, 32)).astype(np.float32)}
"""
EXPORT = """
import numpy as np, torch, small
module, example = small.net()
with torch.no_grad():
    program = torch.export.export(module, example)
    torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False).save("bare.onnx")
    np.savez("bare.npz", *[module(torch.from_numpy(each["input"])).numpy() for each in small.data()])
"""
SIMPLIFY = """
import sys
sys.modules["torch"] = None
import onnx, onnxsim
onnx.save(onnxsim.simplify(onnx.load("bare.onnx"))[0], "simple.onnx")
"""
BUILD = """
import tensorrt_rtx as trt
log = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(log)
network = builder.create_network(0)
assert trt.OnnxParser(network, log).parse_from_file("simple.onnx")
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
open("bare.plan", "wb").write(builder.build_serialized_network(network, config))
"""
COMPARE = """
import numpy as np, onnxruntime as ort
rng = [np.random.default_rng(seed).standard_normal((1, 3, 32, 32)).astype(np.float32) for seed in range(8)]
wanted = list(np.load("bare.npz").values())
for path in ("bare.onnx", "simple.onnx"):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for each, right in zip(rng, wanted):
        assert np.abs(session.run(None, {name: each})[0] - right).max() < 1e-3
"""


def parts(environment: dict[str, str], folder: Path) -> dict[str, Cost]:
    """The cost of each part."""
    scripts = {"export": EXPORT, "simplify": SIMPLIFY, "build": BUILD, "compare": COMPARE}
    return {name: watched([sys.executable, "-c", text], environment, folder) for name, text in scripts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small.py").write_text(FACTORY, encoding="utf-8")
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        ours: list[Cost] = []
        bare: list[dict[str, Cost]] = []
        for number in range(-1, arguments.rounds):  # the first leaves bytecode, as pip does
            own = {**environment, "TRTPIPE_CACHE_DIR": str(folder / f"cache{number}")}
            build = [sys.executable, "-m", "trtpipe", "build", "small.py:net", f"--{arguments.precision}"]
            build += ["--calib-data", "small.py:data", "--target", "sm89", "-o", "out"]
            cost, found = watched(build, own, folder), parts(environment, folder)
            if number >= 0:
                ours.append(cost)
                bare.append(found)
    total = [sum(cost.processor for cost in found.values()) for found in bare]
    result = {
        "machine": machine_line(),
        "model": "two convolutions and a linear layer in PyTorch, 8 samples",
        "precision": arguments.precision,
        "rounds": arguments.rounds,
        "trtpipe_processor_seconds": middle(cost.processor for cost in ours),
        "parts_processor_seconds": middle(total),
        "parts": {part: middle(found[part].processor for found in bare) for part in bare[0]},
        "processor_ratio": middle(cost.processor / other for cost, other in zip(ours, total, strict=True)),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
