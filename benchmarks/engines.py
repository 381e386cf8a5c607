"""What building engines costs: three targets beside one, a child process beside none, and memory for a large model.

    python benchmarks/engines.py [--rounds 3] [--without-large] > results/engines.json

Engines are built by TensorRT-RTX on a machine without a GPU. CPU seconds are those of all processes together and depend
less on what else the machine does than wall seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import models
import onnx_ir as ir
import placement
from benchmarks_common import machine_line
from overhead import Cost, middle, watched

from trtpipe.backends.base import load_backend
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.config.target import find_target
from trtpipe.engine.record import EngineRecord
from trtpipe.passes.graph_pass import run_passes
from trtpipe.preflight.onnx_io import save_model
from trtpipe.progress import NullProgress

THREE = ("sm86", "sm89", "sm120")
#: The same build in a process that does nothing else.
BARE = """
import sys, time, tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
assert trt.OnnxParser(network, logger).parse_from_file(sys.argv[1])
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
assert builder.build_serialized_network(network, config)
"""


def int8_resnet50(folder: Path) -> Path:
    """A ResNet-50 with Q/DQ pairs, batch 1; its ranges are made up."""
    source = folder / "resnet50.onnx"
    models.resnet50(source)
    model = placement.prepared(source)
    for value in model.graph.inputs:
        value.shape = ir.Shape((1, 3, 224, 224))
    run_passes(model, placement.styles(source)["int8 over float32"])
    lowered = folder / "lowered" / "resnet50_int8.onnx"
    lowered.parent.mkdir()
    save_model(model, lowered)
    return lowered


def compiled(model: Path, folder: Path, *options: str) -> Cost:
    """One ``trtpipe compile`` with an empty cache."""
    environment = {**os.environ, "TRTPIPE_CACHE_DIR": tempfile.mkdtemp(dir=folder)}
    words = [sys.executable, "-m", "trtpipe", "compile", str(model), "--backend", "tensorrt-rtx", *options]
    return watched([*words, "-o", str(folder / "out")], environment)


def targets(model: Path, folder: Path, rounds: int) -> dict[str, object]:
    """One target, three that share a plan, and three with plans of their own, in turns."""
    alone = folder / "alone.toml"
    alone.write_text("[build]\nshared_plan = false\n", encoding="utf-8")
    ways: dict[str, tuple[str, ...]] = {
        "one target": ("--target", THREE[1]),
        "three targets, one plan": ("--target", ",".join(THREE)),
        "three targets, three plans": ("--target", ",".join(THREE), "--profile", str(alone)),
    }
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, options in ways.items():
            costs[way].append(compiled(model, folder, *options))
    found = {
        way: {"cpu_seconds": middle(c.processor for c in each), "wall_seconds": middle(c.wall for c in each)}
        for way, each in costs.items()
    }
    one = found["one target"]["cpu_seconds"]
    return {
        **found,
        "cpu_ratio_one_plan": round(found["three targets, one plan"]["cpu_seconds"] / one, 2),
        "cpu_ratio_three_plans": round(found["three targets, three plans"]["cpu_seconds"] / one, 2),
    }


def reports(model: Path, folder: Path) -> dict[str, object]:
    """Whether a shared plan is described as plans of their own are."""
    rtx, settings = load_backend("tensorrt-rtx"), Settings(cache_dir=folder)
    goals = [find_target(name) for name in THREE]
    profile = DeploymentProfile()
    records: dict[str, EngineRecord] = {
        "shared": rtx.build(model, profile, goals, folder / "shared.plan", settings, NullProgress())
    }
    for goal in goals:
        records[goal.name] = rtx.build(model, profile, (goal,), folder / f"{goal}.plan", settings, NullProgress())
    return {
        name: {
            "kernels": each.layers,
            "activation_bytes": each.activation_bytes,
            "weight_bytes": each.weight_bytes,
            "bytes_written": each.report and each.report.bytes_written,
            "bytes_read": each.report and each.report.bytes_read,
            "conv_gemm": each.report and each.report.conv_gemm_types,
        }
        for name, each in records.items()
    }


def child(folder: Path, rounds: int) -> dict[str, float]:
    """One tiny engine by the back-end, in its child process, beside a bare process that builds it."""
    import onnx
    from onnx.parser import parse_model

    path = folder / "tiny" / "relu.onnx"
    path.parent.mkdir()
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[1,64] x) => (float[1,64] y) { y = Relu(x) }'
    onnx.save(parse_model(text), path)
    rtx, settings, sm89 = load_backend("tensorrt-rtx"), Settings(cache_dir=folder), find_target("sm89")
    walls, processors, bare = [], [], []
    for _ in range(rounds):
        begin, before = time.perf_counter(), _spent()
        record = rtx.build(path, DeploymentProfile(), (sm89,), path.with_suffix(".plan"), settings, NullProgress())
        walls.append(time.perf_counter() - begin - record.build_seconds)
        processors.append(_spent() - before)
        before = _spent()
        subprocess.run([sys.executable, "-c", BARE, str(path)], check=True, capture_output=True)
        bare.append(_spent() - before)
    return {
        "wall_seconds_beside_the_build": middle(walls),
        "cpu_seconds": middle(processors),
        "cpu_seconds_bare": middle(bare),
        "cpu_overhead_seconds": round(statistics.median(processors) - statistics.median(bare), 2),
    }


def _spent() -> float:
    times = os.times()
    return times.children_user + times.children_system + times.user + times.system


def large(folder: Path) -> dict[str, object]:
    """Peak memory of a build of 24 encoder layers of width 1024: 1.3 GB of float32 weights."""
    model = folder / "large" / "encoder.onnx"
    model.parent.mkdir()
    models.encoder(model, width=1024, heads=16, layers=24)
    weights = model.stat().st_size
    cost = compiled(model, folder, "--target", "sm89", "--shapes", "ids:1x128")
    return {
        "weight_bytes": weights,
        "peak_bytes": cost.memory,
        "ratio": round(cost.memory / weights, 2),
        "cpu_seconds": round(cost.processor, 1),
        "wall_seconds": round(cost.wall, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-large", action="store_true")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = int8_resnet50(folder)
        result = {
            "machine": machine_line(),
            "load_before": round(load, 1),
            "targets, INT8 ResNet-50": targets(model, folder, arguments.rounds),
            "engine reports": reports(model, folder),
            "child process": child(folder, arguments.rounds * 3),
        }
        if not arguments.without_large:
            result["large model"] = large(folder)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
