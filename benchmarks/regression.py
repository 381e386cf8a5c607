"""The regression gate: is a rebuild with nothing changed ever flagged, is damage that lowers the metric caught, and is
every change called what it is?

    python benchmarks/regression.py [--rebuilds 200] [--emulated 20] [--trials 100] [--changes 20] > regression.json

The detector of ``tuning_models.py``, trained here, built to INT8. Rebuilds start from an empty cache each, with real
engines by TensorRT-RTX, whose bytes need not be the same every time. In every trial one weight tensor, drawn by seed,
gets normal noise of 1 % of its own standard deviation; the metric is the mean average precision of the lowered graph on
300 images, which nearly every change moves one way or the other. What else can change (a layer's precision, a recipe's
mean, labels), and rebuilds on another kind of CPU, are in ``regression_changes.py``; the latter need ``qemu-x86_64`` on
the PATH (Debian: qemu-user). 0 leaves a part out; ``--first`` and ``--data``, a network that was trained already, share
the work among processes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from benchmarks_common import machine_line
from regression_changes import changes, emulated

import trtpipe
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings

NOISE = 0.01


def build(model: Path, data: Path, out: Path, cache: Path, backend: str) -> Path:
    shapes = {"image": {"min": [1, 1, 32, 32], "opt": [1, 1, 32, 32], "max": [64, 1, 32, 32]}}
    profile = {"precision": "int8", "shapes": shapes, "backend": backend, "targets": ["sm89"],
               "accuracy": {"max_drop": "100%"},
               "latency": {"warmup": 0.001, "duration": 0.01, "cpu": True}}  # fmt: skip
    recipe = {
        "data": {"source": str(data / "calib.npz")},
        "evaluation": {"source": str(data / "eval.npz"), "labels": "labels", "batch": 50,
                       "metric": "map", "output": "boxes,scores"},
    }  # fmt: skip
    found = trtpipe.build(
        model,
        out,
        profile=DeploymentProfile.model_validate(profile),
        recipe=CalibrationRecipe.model_validate(recipe),
        settings=Settings(cache_dir=cache),
        simplify=backend != "null",
    ).out
    assert found is not None
    return found


def metric(folder: Path) -> float:
    parity = trtpipe.ParityReport.read(folder / "parity.json")
    return next(value.value for value in parity.metrics if value.artifact == "lowered")


def rebuilds(count: int, data: Path, scratch: Path) -> dict[str, object]:
    baseline, engines, flagged = scratch / "baseline.json", set(), []
    for number in range(count + 1):
        cache = scratch / "cold"
        folder = build(data / "model.onnx", data, scratch / "rebuilt", cache, "tensorrt-rtx")
        if not number:
            trtpipe.save_baseline(folder, baseline)
        engines.add(next(folder.glob("*.plan")).read_bytes())
        report = trtpipe.check(folder, baseline)
        if not report.passed:
            flagged.append([finding.message for finding in report.findings if finding.status == "failed"])
        shutil.rmtree(cache)
        shutil.rmtree(folder)
        print(f"rebuild {number}: {'passed' if report.passed else 'FLAGGED'}", file=sys.stderr, flush=True)
    return {"rebuilds": count, "flagged": flagged, "different_engines": len(engines)}


def noisy(model: onnx.ModelProto, seed: int) -> tuple[onnx.ModelProto, str]:
    generator = np.random.default_rng(seed)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weights = [tensor for tensor in changed.graph.initializer if len(tensor.dims) > 1]
    tensor = weights[int(generator.integers(len(weights)))]
    array = onnx.numpy_helper.to_array(tensor)
    noise = generator.normal(0, NOISE * array.std(), array.shape).astype(array.dtype)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array + noise, tensor.name))
    return changed, tensor.name


def trials(first: int, count: int, data: Path, scratch: Path) -> dict[str, object]:
    """Engines have no part in this: the null back-end stands in for them."""
    model, baseline, cache = onnx.load(data / "model.onnx"), scratch / "quick.json", scratch / "cache"
    good = build(data / "model.onnx", data, scratch / "good", cache, "null")
    trtpipe.save_baseline(good, baseline)
    before = metric(good)
    lowered, caught, missed, others = 0, 0, [], 0
    for seed in range(first, first + count):
        changed, name = noisy(model, seed)
        onnx.save(changed, scratch / "changed.onnx")
        folder = build(scratch / "changed.onnx", data, scratch / "noisy", cache, "null")
        now, report = metric(folder), trtpipe.check(folder, baseline)
        shutil.rmtree(folder)
        if now < before:
            lowered += 1
            caught += not report.passed
            missed += [[seed, name, now]] if report.passed else []
        else:
            others += not report.passed
        print(f"trial {seed}: {name} {before:.4f} -> {now:.4f}, {report.passed}", file=sys.stderr, flush=True)
    return {"trials": count, "metric_before": before, "lowered_the_metric": lowered, "of_these_caught": caught,
            "missed": missed, "flagged_though_no_worse": others}  # fmt: skip


def main() -> None:
    import tuning_models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rebuilds", type=int, default=200, help="with nothing changed")
    parser.add_argument("--emulated", type=int, default=20, help="with nothing changed, on another kind of CPU")
    parser.add_argument("--trials", type=int, default=100, help="with noise on a weight")
    parser.add_argument("--changes", type=int, default=20, help="of each other kind")
    parser.add_argument("--first", type=int, default=0, help="seed of the first trial")
    parser.add_argument("--data", type=Path, help="folder of the network")
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trtpipe-regression-") as name:
        scratch = Path(name)
        detector = options.trials or options.rebuilds
        data = options.data or (tuning_models.detector(scratch / "data") if detector else scratch)
        found = {
            "machine": machine_line(),
            "noise": NOISE,
            **(trials(options.first, options.trials, data, scratch) if options.trials else {}),
            **(rebuilds(options.rebuilds, data, scratch) if options.rebuilds else {}),
            **({"changes": changes(options.changes, scratch)} if options.changes else {}),
            **({"on another CPU": emulated(options.emulated, scratch)} if options.emulated else {}),
        }
    print(json.dumps({**found, "minutes": round((time.monotonic() - begin) / 60, 1)}, indent=2))


if __name__ == "__main__":
    main()
