"""What an engine costs with each way to write 8 bits: kernels, bytes moved, weights, and the estimate `best` goes by.

    python benchmarks/placement.py [--target sm89] [--batch 1 --batch 8] > results/placement.json

Engines are built by TensorRT-RTX for a GPU that need not be here, and described by the builder itself. Ranges are made
up (1 for every tensor), which changes no kernel: the figures are about speed alone, and nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import models
import onnx_ir as ir
from benchmarks_common import machine_line

from trtpipe.autocast.convert import CastPrecision
from trtpipe.backends.base import load_backend
from trtpipe.config.formats import FP16, Precision
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.config.stage_settings import QuantizationSettings
from trtpipe.config.target import find_target
from trtpipe.engine.report import EngineReport
from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.graph_pass import GraphPass, run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.opsets import LEAST_OPSET
from trtpipe.passes.raise_opset import raise_opset
from trtpipe.preflight.onnx_io import load_model, save_model
from trtpipe.progress import NullProgress
from trtpipe.quantization.engine_cost import engine_cost
from trtpipe.quantization.per_tensor_scales import SplitScales
from trtpipe.quantization.plan import plan
from trtpipe.quantization.qdq import InsertQDQ

#: model -> shape of its input for a batch of one
MODELS = {"resnet50": (3, 224, 224), "minilm": (128,)}


def styles(source: Path) -> dict[str, list[GraphPass]]:
    """The ways that are compared."""
    model = prepared(source)

    def written(precision: Precision) -> InsertQDQ:
        found = plan(model, QuantizationSettings(precision=precision))
        return InsertQDQ(found.with_ranges(dict.fromkeys(found.tensors, 1.0)))

    half = CastPrecision(FP16)
    over_half = written(Precision.best)
    return {
        "float32": [],
        "float16": [half],
        "int8 over float32": [written(Precision.int8)],
        "int8 over float16": [over_half, half],
        "int8 over float16, scales behind convolutions": [over_half, half, SplitScales()],
        "fp8 over float32": [written(Precision.fp8)],
    }


def prepared(source: Path) -> ir.Model:
    """The model at an opset that lowering can use."""
    model = raise_opset(load_model(source), LEAST_OPSET)
    run_passes(model, [InferTypes()])
    clean_up(model)
    return model


def measure(source: Path, passes: list[GraphPass], shape: tuple[int, ...], target: str, folder: Path) -> EngineReport:
    """The report of an engine with static shapes."""
    model = prepared(source)
    for value in model.graph.inputs:
        value.shape = ir.Shape(shape)
    run_passes(model, passes)
    graph = folder / "graph.onnx"
    save_model(model, graph)
    record = load_backend("tensorrt-rtx").build(
        graph,
        DeploymentProfile(),
        (find_target(target),),
        folder / "e.plan",
        Settings(cache_dir=folder),
        NullProgress(),
    )
    assert record.report is not None
    return record.report


def main() -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="sm89")
    parser.add_argument("--batch", type=int, action="append")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, shape in MODELS.items():
            source = folder / f"{name}.onnx"
            getattr(models, name)(source)
            for batch in options.batch or [1, 8]:
                for style, passes in styles(source).items():
                    report = measure(source, passes, (batch, *shape), options.target, folder)
                    rows.append(
                        {
                            "model": name,
                            "batch": batch,
                            "style": style,
                            "kernels": len(report.kernels),
                            "conv_gemm": report.conv_gemm_types,
                            "activation_memory_mb": round((report.activation_memory or 0) / 1e6, 1),
                            "written_mb": round(report.bytes_written / 1e6, 1),
                            "read_mb": round(report.bytes_read / 1e6, 1),
                            "weights_mb": round(report.constant_bytes / 1e6, 1),
                            "estimated_cost_mb": round(engine_cost(report) / 1e6, 1),
                        }
                    )
    print(json.dumps({"machine": machine_line(), "target": options.target, "engines": rows}, indent=1))


if __name__ == "__main__":
    main()
