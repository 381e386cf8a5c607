"""Tuning on networks that full INT8 breaks: the metric, the work left in INT8, and what finding it cost.

    python benchmarks/tuning.py [--max-drop 0.005] [--cases DIR] [--yardstick] [--no-recalibrate] > results/tuning.json
    python benchmarks/tuning.py --peak plain|pass --cache DIR [--samples N] --only resnet50 minilm [--cases DIR]

Two small networks are trained by the script itself (``tuning_models.py``). A folder of cases holds one folder each,
with a ``case.py`` that has ``MODEL``, ``PROFILES``, ``calibration()`` and ``evaluate(run)``. The yardstick tries every
choice of up to six groups, or at every step every group, as accuracy-aware tools do. With --no-recalibrate nothing but
the choice of layers is left to tune. --peak tells the peak memory of plain inference, or of the sensitivity pass,
of cases or of resnet50 and minilm, networks of that size. Runner: onnxruntime on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from dataclasses import replace
from glob import escape
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks_common import PeakMemory, machine_line, tree_cpu

import trtpipe
from trtpipe.accuracy.reports import MetricValue
from trtpipe.backends.base import load_backend
from trtpipe.config.job import Job
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.data.dataset import open_dataset
from trtpipe.data.selection import subsample_feeds
from trtpipe.pipeline.pipeline import opened, stages_named
from trtpipe.pipeline.tuner import BEFORE
from trtpipe.preflight import folder_size
from trtpipe.preflight.onnx_io import read_contract
from trtpipe.progress import NullProgress
from trtpipe.reference.reference_outputs import run_every
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.evaluate import Evaluate
from trtpipe.stages.stage import Stage

if TYPE_CHECKING:
    from trtpipe.artifact import Feed

#: Up to so many groups the yardstick tries every choice.
EXHAUSTIVE = 6
LARGE = ("resnet50", "minilm")


def own_job(name: str, folder: Path, cache: Path) -> Job:
    import tuning_models

    tuning_models.MODELS[name](folder)
    shape = [1, 32, 32] if name == "detector" else [1, 8, 8]
    metric = {"metric": "map", "output": "boxes,scores"} if name == "detector" else {"metric": "top1"}
    recipe = {
        "data": {"source": str(folder / "calib.npz")},
        "evaluation": {"source": str(folder / "eval.npz"), "labels": "labels", "batch": 50, **metric},
    }
    shapes = {"image": {"min": [1, *shape], "opt": [1, *shape], "max": [64, *shape]}}
    return job(str(folder / "model.onnx"), shapes, recipe, cache)


def case_job(folder: Path, cache: Path) -> Job:
    spec = importlib.util.spec_from_file_location(folder.name, folder / "case.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018  a file that is there
    case = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(case)
    recipe = {
        "data": {"source": f"{folder / 'case.py'}:calibration"},
        "evaluation": {"metric": f"{folder / 'case.py'}:evaluate"},
    }
    return job(case.MODEL, case.PROFILES, recipe, cache)


def large_job(name: str, folder: Path, cache: Path) -> Job:
    """A network of ``models.py`` with random weights, on random samples: memory does not mind."""
    import models

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    if name == "resnet50":
        models.resnet50(folder / "model.onnx")
        feed = {"image": random.standard_normal((16, 3, 224, 224), np.float32)}
    else:
        models.minilm(folder / "model.onnx")
        feed = {"ids": random.integers(0, 30522, (16, 128))}
    np.savez(folder / "calib.npz", **feed)
    shapes = {key: {end: [1, *value.shape[1:]] for end in ("min", "opt", "max")} for key, value in feed.items()}
    recipe = {"data": {"source": str(folder / "calib.npz")}, "method": "max", "corrections": "none"}
    return job(str(folder / "model.onnx"), shapes, recipe, cache)


def job(model: str, shapes: object, recipe: object, cache: Path) -> Job:
    profile = {"precision": "int8", **({"shapes": shapes} if shapes else {})}
    return trtpipe.make_job(
        model,
        profile=DeploymentProfile.model_validate(profile),
        recipe=CalibrationRecipe.model_validate(recipe),
        settings=Settings(cache_dir=cache),
        engines=False,
    )


def measure(name: str, made: Job, max_drop: float, compare: bool, workdir: Path) -> dict[str, object]:
    begin = time.perf_counter()
    result = trtpipe.tune(made, trtpipe.Budget(max_drop=max_drop), workdir / "tuned.toml")
    seconds = time.perf_counter() - begin
    tuning = result.tuning
    found: dict[str, object] = {
        "case": name,
        "metric": tuning.reference.metric,
        "samples": tuning.reference.samples,
        "float32": tuning.reference.value,
        "int8_plain": plain(made).value,
        "int8": tuning.lowered.value,
        "tuned": tuning.tuned.value,
        "met": tuning.met,
        "work_in_int8": round(tuning.share, 4),
        "of_the_work_samples_reached": round(tuning.reached, 4),
        "kept": list(tuning.groups),
        "evaluations": tuning.evaluations,
        "calibration": tuning.calibration.to_dict(),
        "seconds": round(seconds, 1),
    }
    better = replace(made, recipe=result.recipe)
    found |= sensitivity_cost(better, workdir)
    if compare:
        found["yardstick"] = yardstick(better, tuning.allowed)
    return found


def plain(made: Job) -> MetricValue:
    """The metric with everything in INT8 by the recipe's own method, nothing corrected."""
    unrepaired = replace(made, recipe=made.recipe.model_copy(update={"corrections": "none"}))
    with opened(unrepaired, NullProgress()) as pipeline:
        steps = pipeline.run((*stages_named(*BEFORE, "lower"), Evaluate("lowered")), {})
        return MetricValue.read(steps[-1].artifact.path)


def sensitivity_cost(made: Job, workdir: Path, samples: int = 128) -> dict[str, object]:
    """CPU time of the pass, child processes included, and of groups x samples plain inferences in this process.

    What the pass is not: finding earlier results in the store, and the user's own code that makes the samples.
    """
    simplified = artifacts(made, BEFORE)[1]
    begin = tree_cpu()
    artifacts(made, BEFORE)
    feeds = subsample_feeds(open_dataset(made.recipe.data, read_contract(simplified)), samples, 256 << 20)
    middle = tree_cpu()
    found = trtpipe.sensitivity(made, samples=samples)
    spent = tree_cpu() - middle - (middle - begin)
    plain = len(found.groups) * plain_seconds(made, simplified, feeds)
    return {"groups": len(found.groups), "sensitivity_samples": len(feeds), "sensitivity_cpu": round(spent, 2),
            "plain_cpu": round(plain, 2), "sensitivity_over_plain": round(spent / plain, 2),
            "seconds_beyond_1.3": round(max(spent - 1.3 * plain, 0.0), 2),
            "additivity": round(found.additivity, 2)}  # fmt: skip


def plain_seconds(made: Job, simplified: Path, feeds: list[Feed]) -> float:
    """CPU seconds of bare onnxruntime for all feeds, the least of three."""
    with load_backend("onnxruntime").open(simplified, replace(made.settings, isolate=False)) as runner:
        names = {spec.name for spec in runner.inputs}
        wanted = [{name: value for name, value in feed.items() if name in names} for feed in feeds]
        runner.infer(wanted[0])
        found = []
        for _ in range(3):
            begin = time.process_time()
            runner.infer_all(wanted)
            found.append(time.process_time() - begin)
    return min(found)


def artifacts(made: Job, names: tuple[str, ...]) -> list[Path]:
    with opened(made, NullProgress()) as pipeline:
        steps = pipeline.run(stages_named(*names), {})
        return [step.artifact.path for step in steps if step.artifact is not None]


def yardstick(made: Job, allowed: float) -> dict[str, object]:
    """The most work in INT8 that holds the budget, on lowered graphs: of all choices, or step by step."""
    groups = trtpipe.sensitivity(made).groups
    numbers = range(len(groups))
    found: dict[tuple[int, ...], tuple[float, float]] = {}

    def judged(kept: tuple[int, ...], *stages: Stage) -> tuple[MetricValue, float]:
        nodes = tuple(escape(node) for index in kept for node in groups[index].nodes)
        job = replace(made, profile=made.profile.model_copy(update={"keep": nodes}))
        with opened(job, NullProgress()) as pipeline:
            steps = pipeline.run((*stages_named(*BEFORE, "lower"), *stages), {})
            lowered, metric = (step.artifact for step in steps[-2:])
            return MetricValue.read(metric.path), LowerRecord.read(lowered.sidecar).work.share

    reference, _ = judged((), Evaluate("model"))

    def loss(kept: tuple[int, ...]) -> float:
        if kept not in found:
            value, share = judged(kept, Evaluate("lowered"))
            found[kept] = value.loss(reference), share
        return found[kept][0]

    if len(groups) <= EXHAUSTIVE:
        for kept in (kept for size in range(len(groups)) for kept in combinations(numbers, size)):
            loss(kept)
    else:
        kept = ()
        while loss(kept) > allowed and len(kept) < len(groups):
            wider = [tuple(sorted({*kept, index})) for index in numbers if index not in kept]
            kept = min(wider, key=lambda each: (loss(each), each))
    holding = [kept for kept, (lost, _) in found.items() if lost <= allowed + 1e-12]
    best = max(holding, key=lambda kept: (found[kept][1], -len(kept)), default=tuple(numbers))
    return {"kept": [groups[index].name for index in best], "work_in_int8": round(found.get(best, (0, 0))[1], 4),
            "loss": round(found.get(best, (0, 0))[0], 4), "evaluations": len(found) + 1,
            "method": "exhaustive" if len(groups) <= EXHAUSTIVE else "greedy"}  # fmt: skip


def peak(made: Job, what: str, samples: int) -> dict[str, object]:
    """MiB of this process and its children at their most; what comes before was made by another, with --cache."""
    simplified = artifacts(made, BEFORE)[1]
    with PeakMemory() as memory:
        if what == "pass":
            trtpipe.sensitivity(made, samples=samples)
        else:
            feeds = subsample_feeds(open_dataset(made.recipe.data, read_contract(simplified)), samples, 256 << 20)
            with load_backend("onnxruntime").open(simplified, made.settings) as runner:
                for _ in run_every(runner, feeds, {}):
                    pass
    size = folder_size(simplified.parent)
    return {"model": size >> 20, "before": memory.begin >> 20, what: memory.most >> 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-drop", type=float, default=0.005)
    parser.add_argument("--cases", type=Path, help="folder of cases")
    parser.add_argument("--only", nargs="*", help="names of networks or cases")
    parser.add_argument("--yardstick", action="store_true")
    parser.add_argument("--no-recalibrate", action="store_true")
    parser.add_argument("--peak", choices=("plain", "pass"))
    parser.add_argument("--samples", type=int, default=16, help="for --peak")
    parser.add_argument("--cache", type=Path, help="where artifacts rest; a temporary folder by default")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="trtpipe-tuning-") as scratch:
        cache = options.cache or Path(scratch, "cache")
        jobs = {name: lambda name=name: own_job(name, Path(scratch, name), cache) for name in ("depthwise", "detector")}
        if options.peak:
            jobs = {name: lambda name=name: large_job(name, Path(scratch, name), cache) for name in LARGE}
        for case in sorted(options.cases.glob("*/case.py")) if options.cases else ():
            jobs[case.parent.name] = lambda case=case: case_job(case.parent, cache)
        for name, make in jobs.items():
            if not options.only or name in options.only:
                work = Path(scratch, f"work-{name}")
                work.mkdir()
                made = make()
                if options.no_recalibrate:
                    made = replace(made, recipe=made.recipe.model_copy(update={"corrections": "none"}))
                if options.peak:
                    found.append({"case": name, "peak_mib": peak(made, options.peak, options.samples)})
                else:
                    found.append(measure(name, made, options.max_drop, options.yardstick, work))
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"machine": machine_line(), "max_drop": options.max_drop, "runs": found}, indent=2))


if __name__ == "__main__":
    main()
