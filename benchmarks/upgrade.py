"""The upgrade gate: what it says of real versions of TensorRT-RTX, of rebuilds, and of injected differences.

    python benchmarks/upgrade.py [--versions 1.5.0.114,1.6.1.120] [--rebuilds 20] [--trials 20] > results/upgrade.json

``examples/digits`` and a small residual network, in FP32, FP16, INT8 and best, for sm89. Nothing is executed: no GPU is
needed. Three parts, each in a bundle of the version that is installed here:

- rebuilds: each engine built again by the same version; any difference is a false alarm.
- injected differences: the engine of another lowered graph, compared with the bundle's: another type for some nodes
  (``keep``), other values in one weight. Where TensorRT folds the casts around a kept node, the engine is the same and
  nothing is to be found: trials count only if an independent look at the two reports shows another type.
  A lost fusion is injected into the report: a kernel of several nodes in two, since no graph forces TensorRT to it.
- versions: an environment for each, made with pip.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from benchmarks_common import machine_line
from onnx import numpy_helper

import trtpipe
from trtpipe.api import upgrade
from trtpipe.backends.base import EngineRequest, load_backend
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineReport
from trtpipe.regression.upgrade import UpgradeReport

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ("fp32", "fp16", "int8", "best")


def bundles(scratch: Path) -> dict[str, Path]:
    """One build of each precision, by the TensorRT-RTX that is installed."""
    found = {}
    settings = trtpipe.Settings(cache_dir=scratch / "cache")
    for precision in PRECISIONS:
        out = trtpipe.build(
            f"{ROOT / 'examples/digits/model.py'}:digits_cnn",
            scratch / f"digits-{precision}",
            precision=precision,
            profile=ROOT / "profiles/digits.toml",
            recipe=ROOT / "calib/digits.toml",
            targets=["sm89"],
            settings=settings,
        ).out
        assert out is not None
        found[f"digits {precision}"] = out
    return found


@dataclass
class Injecting:
    """TensorRT-RTX on another graph than it was asked to build, or with another report."""

    lowered: Path | None = None
    split: np.random.Generator | None = None
    made: EngineRecord | None = None

    def build(self, request: EngineRequest, progress: trtpipe.Progress) -> EngineRecord:
        if self.lowered is not None:
            request = replace(request, model=self.lowered)
        self.made = load_backend("tensorrt-rtx").build(request, progress)
        if self.split is not None:
            self.made = halved(self.made, self.split)
        return self.made


def halved(record: EngineRecord, generator: np.random.Generator) -> EngineRecord:
    """One kernel of several nodes, drawn at random, as two."""
    assert record.report is not None
    layers = list(record.report.layers)
    index = int(generator.choice([i for i, layer in enumerate(layers) if layer.is_kernel and len(layer.nodes) > 1]))
    cut = int(generator.integers(1, len(layers[index].nodes)))
    parts = (layers[index].nodes[:cut], layers[index].nodes[cut:])
    layers[index : index + 1] = [
        layers[index].model_copy(update={"nodes": part, "constants": layers[index].constants if i == 0 else ()})
        for i, part in enumerate(parts)
    ]
    return record.model_copy(update={"report": record.report.model_copy(update={"layers": tuple(layers)})})


def injected(bundle: Path, change: Injecting) -> UpgradeReport:
    plain = upgrade.load_backend
    try:
        upgrade.load_backend = lambda name, **_: change  # type: ignore[assignment, return-value]
        return trtpipe.check_upgrade(bundle, [sys.executable])
    finally:
        upgrade.load_backend = plain


def caught(report: UpgradeReport, what: str) -> bool:
    return any(each.status == "failed" and each.name.endswith(f": {what}") for each in report.findings)


def computed(report: EngineReport | None) -> tuple[dict[str, int], set[str]]:
    """How many Conv and GEMM kernels compute in each type, and which types any kernel does: no node is looked at."""
    assert report is not None
    return report.conv_gemm_types, set(report.precisions)


def dtype_trial(bundle: Path, scratch: Path, generator: np.random.Generator) -> bool | None:
    """``None`` where TensorRT makes the same types of both graphs."""
    manifest = trtpipe.Manifest.read(bundle / "manifest.json")
    wide = [node.node for node in manifest.nodes if node.precision != "float32"]
    kept = [
        str(name) for name in generator.choice(wide, size=min(len(wide), int(generator.integers(1, 6))), replace=False)
    ]
    made = trtpipe.lower(
        bundle / "simplified.onnx",
        scratch / "kept.onnx",
        precision=manifest.precision,
        keep=kept,
        ranges=bundle / "ranges.json" if (bundle / "ranges.json").exists() else None,
        settings=trtpipe.Settings(cache_dir=scratch / "cache"),
    ).out
    assert made is not None
    change = Injecting(lowered=made)
    report = injected(bundle, change)
    old = EngineRecord.read(bundle / "sm89.plan.json")
    assert change.made is not None
    if computed(old.report) == computed(change.made.report):
        return None
    return caught(report, "precision")


def weight_trial(bundle: Path, scratch: Path, generator: np.random.Generator) -> bool:
    """One value of one weight by 1 %, or one step of an 8-bit one."""
    proto = onnx.load(bundle / "lowered.onnx")
    tensors = [each for each in proto.graph.initializer if len(each.dims) > 1]
    tensor = tensors[int(generator.integers(len(tensors)))]
    array = numpy_helper.to_array(tensor).copy()
    place = tuple(int(generator.integers(length)) for length in array.shape)
    if array.dtype.kind == "i":
        array[place] += 1 if array[place] < 0 else -1
    else:
        array[place] = array[place] * np.array(1.01, array.dtype) or np.array(0.01, array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, scratch / "weight.onnx")
    return caught(injected(bundle, Injecting(lowered=scratch / "weight.onnx")), "weights")


def trials(found: dict[str, Path], count: int, scratch: Path) -> dict[str, Any]:
    results: dict[str, dict[str, int]] = {}
    for name, bundle in found.items():
        sums: Counter[str] = Counter()
        for seed in range(count):
            generator = np.random.default_rng(seed)
            if not name.endswith("fp32"):
                outcome = dtype_trial(bundle, scratch, generator)
                sums["dtype"] += outcome is not None
                sums["dtype caught"] += outcome is True
                sums["dtype undone by TensorRT"] += outcome is None
            sums["weight"] += 1
            sums["weight caught"] += weight_trial(bundle, scratch, generator)
            sums["fusion"] += 1
            sums["fusion caught"] += caught(injected(bundle, Injecting(split=generator)), "fusion")
        results[name] = dict(sums)
        print(name, results[name], file=sys.stderr, flush=True)
    return results


def rebuilds(found: dict[str, Path], count: int) -> dict[str, Any]:
    alarms: dict[str, list[str]] = {}
    for name, bundle in found.items():
        alarms[name] = []
        for _ in range(count):
            report = trtpipe.check_upgrade(bundle, [sys.executable])
            alarms[name] += [f"{each.name}: {each.message}" for each in report.findings if each.status != "ok"]
        print(name, f"{count} rebuilds", alarms[name], file=sys.stderr, flush=True)
    return {"rebuilds of each": count, "false alarms": alarms}


def versions(found: dict[str, Path], wanted: list[str], scratch: Path) -> dict[str, Any]:
    places = []
    for version in wanted:
        place = scratch / f"rtx-{version}"
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin/pip", "install", "-q", f"tensorrt_rtx=={version}"], check=True, stdout=sys.stderr)
        places.append(place)
    results = {}
    for name, bundle in found.items() if places else ():
        report = trtpipe.check_upgrade(bundle, places)
        results[name] = [f"{e.status}: {e.name}: {e.message}" for e in report.findings]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", default="1.5.0.114,1.6.1.120")
    parser.add_argument("--rebuilds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=20)
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trtpipe-upgrade-") as name:
        scratch = Path(name)
        found = bundles(scratch)
        result = {
            "machine": machine_line(),
            "by": EngineRecord.read(next(iter(found.values())) / "sm89.plan.json").version,
            "injected": trials(found, options.trials, scratch),
            **rebuilds(found, options.rebuilds),
            "versions": versions(found, [each for each in options.versions.split(",") if each], scratch),
        }
    print(json.dumps({**result, "minutes": round((time.monotonic() - begin) / 60, 1)}, indent=2))


if __name__ == "__main__":
    main()
