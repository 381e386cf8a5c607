"""Parts of ``regression.py``: changes that have to be called what they are, and rebuilds on another kind of CPU.

Both use the classifier of ``image_model.py``. Engines have no part in them: the null back-end stands in.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_model
import numpy as np
import onnx
from onnx import numpy_helper

import trtpipe
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.errors import InputError

CPU = "Haswell-noTSX"
_SHAPES = {"x": {"min": [1, 3, 16, 16], "opt": [8, 3, 16, 16], "max": [8, 3, 16, 16]}}
#: Prints a digest of what a model gives for seeded inputs.
_CONTROL = """
import hashlib, sys
import numpy as np
import onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
x = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
print(hashlib.sha256(session.run(None, {"x": x})[0].tobytes()).hexdigest())
"""


def build(folder: Path, recipe: dict[str, Any], settings: Settings, model: str = "model.onnx", **profile: Any) -> Path:
    out = folder / "out"
    for old in (out, folder / "out.rejected"):
        shutil.rmtree(old, ignore_errors=True)
    usual = {"precision": "int8", "backend": "null", "targets": ["sm89"], "shapes": _SHAPES,
             "accuracy": {"max_drop": "100%"}, "tolerance": {"min_snr_db": -99, "min_cosine": -1}}  # fmt: skip
    made = trtpipe.build(
        folder / model,
        out,
        profile=DeploymentProfile.model_validate(usual | profile),
        recipe=CalibrationRecipe.model_validate(recipe),
        settings=settings,
        simplify=False,
    ).out
    assert made is not None
    return made


def said(folder: Path, out: Path) -> dict[str, str]:
    """Name of every finding that is no "ok" -> its message; a refusal under ``refused``."""
    try:
        report = trtpipe.check(out, folder / "good.json")
    except InputError as error:
        return {"refused": error.message}
    return {each.name: each.message for each in report.findings if each.status in ("failed", "note")}


Recipe = dict[str, Any]
Options = dict[str, Any]
Random = np.random.Generator
#: The finding that names a change, and words of it.
Named = tuple[str, str]
#: Changes the folder, the recipe or the arguments of a build.
Change = Callable[[Path, Recipe, Options, Random], Named]


def weight_noise(folder: Path, recipe: Recipe, options: Options, draw: Random) -> Named:
    proto = onnx.load(folder / "model.onnx")
    tensors = [each for each in proto.graph.initializer if len(each.dims) > 1]
    tensor = tensors[int(draw.integers(len(tensors)))]
    array = numpy_helper.to_array(tensor)
    noise = draw.normal(0, 0.01 * array.std(), array.shape).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array + noise, tensor.name))
    onnx.save(proto, folder / "noisy.onnx")
    options["model"] = "noisy.onnx"
    return "weights", f"1 of 5 changed: {tensor.name}"


def precision(folder: Path, recipe: Recipe, options: Options, draw: Random) -> Named:
    node = str(draw.choice(["conv_0", "conv_2", "conv_4"]))
    options["keep"] = [node]
    return "precision of layers", f"{node}: int8 -> float32"


def evaluation_mean(folder: Path, recipe: Recipe, options: Options, draw: Random) -> Named:
    mean = [round(float(value), 3) for value in draw.uniform(0.3, 0.7, 3)]
    for part in recipe.values():
        part["image"]["mean"] = mean
    before = "the recipe changed, so that the samples are prepared otherwise: [evaluation.image].mean: [0.5, 0.5, 0.5]"
    return "refused", f"{before} -> {mean}"


def calibration_mean(folder: Path, recipe: Recipe, options: Options, draw: Random) -> Named:
    mean = [round(float(value), 3) for value in draw.uniform(0.3, 0.7, 3)]
    recipe["data"]["image"]["mean"] = mean
    return "recipe", f"[data.image].mean: [0.5, 0.5, 0.5] -> {mean}"


def swapped_labels(folder: Path, recipe: Recipe, options: Options, draw: Random) -> Named:
    """The names of two folders of images."""
    other = folder / "swapped"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(folder / "eval", other)
    first, second = (other / str(name) for name in draw.choice(image_model.CLASSES, 2, replace=False))
    first.rename(other / "spare")
    second.rename(first)
    (other / "spare").rename(second)
    recipe["evaluation"]["source"] = str(other)
    return "refused", "measured with other labels: the inputs are the same"


CHANGES: dict[str, Change] = {
    "1 % noise on a weight": weight_noise,
    "a layer in another precision": precision,
    "the recipe's mean": evaluation_mean,
    "the mean of the calibration alone": calibration_mean,
    "swapped labels": swapped_labels,
}


def changes(count: int, scratch: Path) -> dict[str, Any]:
    """Every kind of change, drawn ``count`` times by seed: how many are named as what they are."""
    folder = image_model.write(scratch / "changes")
    settings = Settings(cache_dir=folder / "cache")
    trtpipe.save_baseline(build(folder, image_model.recipe(folder), settings), folder / "good.json")
    found: dict[str, Any] = {}
    for name, change in CHANGES.items():
        missed = []
        for seed in range(count):
            recipe, options = image_model.recipe(folder), {}
            where, words = change(folder, recipe, options, np.random.default_rng(seed))
            told = said(folder, build(folder, recipe, settings, **options))
            if words not in told.get(where, ""):
                missed.append([seed, words, told])
        found[name] = {"injected": count, "named": count - len(missed), "missed": missed}
        print(f"{name}: {count - len(missed)} of {count} named", file=sys.stderr, flush=True)
    return found


def emulated(count: int, scratch: Path) -> dict[str, Any]:
    """Rebuilds whose child processes, onnxruntime's among them, run on another kind of CPU (Debian's qemu-user)."""
    folder = image_model.write(scratch / "emulated")
    wrapper = scratch / "python-emulated"
    wrapper.write_text(f'#!/bin/sh\nexec qemu-x86_64 -cpu {CPU} {sys.executable} "$@" 2>/dev/null\n')
    wrapper.chmod(0o755)
    good = rebuilt(folder)
    trtpipe.save_baseline(good, folder / "good.json")
    before, flagged, other_bytes = digests(good), [], 0
    for number in range(count):
        shutil.rmtree(folder / "cache")
        # in a process of its own, since the fork server of this one runs on this CPU
        environment = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
        subprocess.run([sys.executable, __file__, folder, wrapper], check=True, env=environment, stdout=sys.stderr)
        out = folder / "out"
        report = trtpipe.check(out, folder / "good.json")
        other_bytes += digests(out) != before
        if not report.passed:
            flagged.append([each.message for each in report.findings if each.status == "failed"])
        print(f"emulated rebuild {number}: {'passed' if report.passed else 'FLAGGED'}", file=sys.stderr, flush=True)
    control = [
        subprocess.run([each, "-c", _CONTROL, folder / "model.onnx"], check=True, capture_output=True).stdout
        for each in (sys.executable, wrapper)
    ]
    return {
        "cpu": CPU,
        "rebuilds": count,
        "flagged": flagged,
        "rebuilds with other bytes": other_bytes,
        "onnxruntime's bytes differ there": control[0] != control[1],
    }


def rebuilt(folder: Path) -> Path:
    settings = Settings(cache_dir=folder / "cache", sandbox=False, worker_seconds=3600.0)
    return build(folder, image_model.recipe(folder), settings)


def digests(out: Path) -> str:
    """Of the ranges, the lowered graph and the figures of the outputs."""
    parity = trtpipe.ParityReport.read(out / "parity.json")
    figures = [[each.mean_abs, each.max_abs] for c in parity.comparisons for each in c.outputs]
    content = (out / "ranges.json").read_bytes() + (out / "lowered.onnx").read_bytes()
    return hashlib.sha256(content + json.dumps(figures).encode()).hexdigest()


if __name__ == "__main__":
    sys.executable = sys.argv[2]  # of every child process from here on
    rebuilt(Path(sys.argv[1]))
