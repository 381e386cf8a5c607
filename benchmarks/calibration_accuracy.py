"""Accuracy of every calibration method on real models, with placement and weights held fixed and no corrections.

    python benchmarks/calibration_accuracy.py [CASE ...] --cases FOLDER [--rounds N] [--draws N] [--out RESULT.json]

A case is a folder with a ``case.py``: MODEL, ``calibration()`` and ``evaluate(run)``. Figures come from onnxruntime on
the CPU, with Q/DQ pairs computed as they are written. ``auto`` is compared with the best method and with float32, and
chance.py says how likely such a difference is between equally good models (N rounds; 0 leaves it out).
With --draws, every method is applied to N random halves of the calibration data instead, and figures are means over
these, with the standard error of their difference from ``auto``'s: which of two methods rounds a lucky way differs
from half to half, and what remains is the methods'.
Exit status 1: on some case ``auto`` is more than 0.1 point behind the lesser of the two.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
from chance import Answers, answers, chance

import trtpipe
from trtpipe.backends.base import load_backend
from trtpipe.calibration.methods import COMPARED_METHODS
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.config.settings import Settings

AUTO = "auto"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*")
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--draws", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not arguments.cases.is_dir():
        print(f"{arguments.cases}: no such folder", file=sys.stderr)
        return 2
    names = arguments.case or sorted(path.parent.name for path in arguments.cases.glob("*/case.py"))
    with tempfile.TemporaryDirectory() as work:
        if arguments.draws:
            results = [drawn(arguments.cases / name, Path(work), arguments.draws) for name in names]
        else:
            results = [measured(arguments.cases / name, Path(work), arguments.rounds) for name in names]
    document = {
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "cases": results,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(result["within_0.1_point_or_float32"] for result in results) else 1


@dataclass(frozen=True)
class Tried:
    """What all methods came to on one case and one choice of calibration data.

    Attributes:
        found: "float32", the methods, and ``auto``.
        auto_took: method -> tensors for which ``auto`` took it.
        auto_seconds: wall time of ``auto``'s calibration and lowering.
    """

    found: dict[str, Answers]
    auto_took: dict[str, int]
    auto_seconds: float

    @property
    def figures(self) -> dict[str, float]:
        return {name: each.figure for name, each in self.found.items()}


def measured(folder: Path, work: Path, rounds: int) -> dict[str, object]:
    """One case: the figure of every method, and of ``auto``, and how far that is behind."""
    case = load(folder / "case.py")
    tried = tried_on(folder, case, work, DataSettings(source=f"{folder / 'case.py'}:calibration"))
    found, figures = tried.found, tried.figures
    best = max((name for name in figures if name not in (AUTO, "float32")), key=lambda name: figures[name])
    behind = {name: figures[name] - figures[AUTO] for name in (best, "float32")}
    chances = {name: round(chance(case, found[AUTO], found[name], rounds), 3) for name in behind} if rounds else {}
    print(f"{folder.name}: auto took {tried.auto_took} in {tried.auto_seconds:.1f} s and is behind")
    for name, gap in behind.items():
        print(f"    {name} by {100 * gap:.2f} points (chance: {chances.get(name)})")
    for name, value in figures.items():
        print(f"    {name:20} {value:.5f}", flush=True)
    return {
        "case": folder.name,
        "figures": figures,
        "best": best,
        "chance": chances,
        "auto_took": tried.auto_took,
        "auto_seconds": round(tried.auto_seconds, 1),
        "within_0.1_point": bool(behind[best] <= 0.001 + 1e-12),
        "within_0.1_point_or_float32": bool(min(behind.values()) <= 0.001 + 1e-12),
    }


def drawn(folder: Path, work: Path, draws: int) -> dict[str, object]:
    """One case: means over random halves of the calibration data."""
    case = load(folder / "case.py")
    data = DataSettings(source=f"{__file__}:half")
    tables: list[dict[str, float]] = []
    for seed in range(draws):
        os.environ["TRTPIPE_HALF"] = f"{seed} {folder / 'case.py'}"
        tables.append(tried_on(folder, case, work, data).figures)
        print(folder.name, seed, {name: round(value, 4) for name, value in tables[-1].items()}, flush=True)
    means = {name: float(np.mean([table[name] for table in tables])) for name in tables[0]}
    gaps = {name: np.array([table[name] - table[AUTO] for table in tables]) for name in means if name != AUTO}
    best = max((name for name in gaps if name != "float32"), key=lambda name: means[name])
    errors = {name: float(gap.std(ddof=1) / len(gap) ** 0.5) if draws > 1 else None for name, gap in gaps.items()}
    behind = {name: means[name] - means[AUTO] for name in (best, "float32")}
    for name, value in means.items():
        print(f"    {name:20} {value:.5f}  standard error of the difference: {errors.get(name)}", flush=True)
    return {
        "case": folder.name,
        "draws": draws,
        "figures": means,
        "standard_errors": errors,
        "best": best,
        "within_0.1_point": bool(behind[best] <= 0.001 + 1e-12),
        "within_0.1_point_or_float32": bool(min(behind.values()) <= 0.001 + 1e-12),
    }


def half() -> Iterator[dict[str, np.ndarray]]:
    """A random half of a case's calibration feeds, as a data source of trtpipe's."""
    seed, path = os.environ["TRTPIPE_HALF"].split(maxsplit=1)
    feeds = list(load(Path(path)).calibration())
    chosen = np.random.default_rng(int(seed)).permutation(len(feeds))[: len(feeds) // 2]
    return (feeds[index] for index in sorted(chosen))


def tried_on(folder: Path, case: ModuleType, work: Path, data: DataSettings) -> Tried:
    """Calibrate by every method on ``data``, lower, and let the case judge."""
    out = work / folder.name
    settings = Settings(cache_dir=work / "cache")
    trtpipe.simplify(case.MODEL, out, settings=settings)
    simplified = out / "simplified.onnx"
    found: dict[str, Answers] = {"float32": answered(case, simplified, settings)}
    chosen: dict[str, int] = {}
    seconds = 0.0
    for name, method, percentile in [(str(c), c.method, c.percentile) for c in COMPARED_METHODS] + [(AUTO, AUTO, None)]:
        begin = time.perf_counter()
        recipe = CalibrationRecipe(method=method, percentile=percentile or 99.99, corrections="none", data=data)
        trtpipe.calibrate(simplified, out, precision="int8", recipe=recipe, settings=settings)
        trtpipe.lower(simplified, out, ranges=out / "ranges.json", precision="int8", recipe=recipe, settings=settings)
        seconds = time.perf_counter() - begin
        found[name] = answered(case, out / "lowered.onnx", settings)
        if name == AUTO:
            for tensor in Ranges.read(out / "ranges.json").tensors.values():
                label = f"{tensor.method} {tensor.percentile or ''}".strip()
                chosen[label] = chosen.get(label, 0) + 1
    return Tried(found, chosen, seconds)


def answered(case: ModuleType, model: Path, settings: Settings) -> Answers:
    """What the model answers to the case."""
    with load_backend("onnxruntime").open(model, settings) as runner:
        inputs = {spec.name for spec in runner.inputs}
        return answers(case, lambda feed: runner.infer({name: feed[name] for name in feed if name in inputs}))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"case_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
