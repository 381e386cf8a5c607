"""Tuning on networks that full INT8 breaks: the metric, the work left in INT8, and what finding it cost.

    python benchmarks/tuning.py [--max-drop 0.005] [--cases DIR] [--greedy] > results/tuning.json

Two small networks are trained by the script itself (``tuning_models.py``). A folder of cases holds one folder each,
with a ``case.py`` that has ``MODEL``, ``PROFILES``, ``calibration()`` and ``evaluate(run)``. With --greedy a search
that tries every group at every step, as accuracy-aware tools do, is the yardstick. Runner: onnxruntime on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks_common import machine_line

import trtpipe
from trtpipe.accuracy.measuring import measure_metric
from trtpipe.backends.base import load_backend
from trtpipe.calibration.dataset import open_dataset
from trtpipe.calibration.ranges import Ranges
from trtpipe.calibration.spread import spread_feeds
from trtpipe.job import Job
from trtpipe.onnxfile import read_contract
from trtpipe.pipeline import opened, stages_named
from trtpipe.profile import DeploymentProfile
from trtpipe.progress import Silent
from trtpipe.recipe import CalibrationRecipe, DataSettings
from trtpipe.settings import Settings
from trtpipe.stages.switching import switchboard

BEFORE = ("export", "simplify", "observe", "calibrate")


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


def job(model: str, shapes: object, recipe: object, cache: Path) -> Job:
    profile = {"precision": "int8", **({"shapes": shapes} if shapes else {})}
    return trtpipe.make_job(
        model,
        profile=DeploymentProfile.model_validate(profile),
        recipe=CalibrationRecipe.model_validate(recipe),
        settings=Settings(cache_dir=cache),
        engines=False,
    )


def measure(name: str, made: Job, max_drop: float, greedy: bool, workdir: Path) -> dict[str, object]:
    begin = time.perf_counter()
    result = trtpipe.tune(made, trtpipe.Budget(max_drop=max_drop), workdir / "tuned.toml")
    seconds = time.perf_counter() - begin
    tuning = result.tuning
    found: dict[str, object] = {
        "case": name,
        "metric": tuning.reference.metric,
        "samples": tuning.reference.samples,
        "float32": tuning.reference.value,
        "int8": tuning.lowered.value,
        "tuned": tuning.tuned.value,
        "met": tuning.met,
        "work_in_int8": round(tuning.share, 4),
        "kept": list(tuning.groups),
        "evaluations": len(tuning.trials) + 1,
        "calibration": f"{result.repairs.best.method}, weights {result.repairs.best.weights}",
        "seconds": round(seconds, 1),
    }
    better = replace(made, recipe=result.recipe)
    found |= sensitivity_cost(better, workdir)
    if greedy:
        found["greedy"] = yardstick(better, tuning.allowed, workdir)
    return found


def sensitivity_cost(made: Job, workdir: Path, samples: int = 128) -> dict[str, object]:
    """CPU time of the pass over that of plain inference: groups x samples of it."""
    simplified, _ = paths(made)
    begin = time.process_time()
    found = trtpipe.sensitivity(made, samples=samples)
    spent = time.process_time() - begin
    data = open_dataset(made.recipe.data, read_contract(simplified))
    feeds = spread_feeds(data, samples, 256 << 20)
    with load_backend("onnxruntime").open(simplified, made.settings) as runner:
        names = {spec.name for spec in runner.inputs}
        wanted = [{name: value for name, value in feed.items() if name in names} for feed in feeds]
        runner.infer(wanted[0])
        begin = time.process_time()
        for feed in wanted:
            runner.infer(feed)
        plain = time.process_time() - begin
    ratio = spent / (plain * len(found.groups))
    return {"groups": len(found.groups), "sensitivity_samples": len(feeds), "sensitivity_cpu": round(spent, 2),
            "sensitivity_over_plain": round(ratio, 2), "additivity": round(found.additivity, 2)}  # fmt: skip


def paths(made: Job) -> tuple[Path, Path]:
    with opened(made, Silent()) as pipeline:
        steps = pipeline.run(stages_named(*BEFORE), {})
    found = {step.artifact.kind: step.artifact.path for step in steps if step.artifact is not None}
    return found["simplified"], found["ranges"]


def yardstick(made: Job, allowed: float, workdir: Path) -> dict[str, object]:
    """At every step the group is kept that helps the metric most, until the budget holds."""
    simplified, ranges = paths(made)
    evaluation = made.recipe.evaluation
    assert evaluation is not None
    amax = {name: found.amax for name, found in Ranges.read(ranges).tensors.items()}
    board = switchboard(made, simplified, workdir, amax, "int8", made.recipe.weights, logits=False)
    settings = DataSettings.model_validate(evaluation.model_dump(include=set(DataSettings.model_fields)))
    data = open_dataset(settings, read_contract(simplified)) if evaluation.source else None
    with board.open(()) as runner:
        reference = measure_metric("float32", runner, runner, evaluation, data)
    evaluations = 1

    def loss(kept: list[int]) -> float:
        nonlocal evaluations
        evaluations += 1
        with board.without(kept) as runner:
            return measure_metric("mixed", runner, runner, evaluation, data).loss(reference)

    kept: list[int] = []
    current = loss(kept)
    while current > allowed and len(kept) < len(board.groups):
        rest = [index for index in range(len(board.groups)) if index not in kept]
        tried = [(loss([*kept, index]), board.groups[index].macs, index) for index in rest]
        current, _, chosen = min(tried)
        kept.append(chosen)
    total = board.never + sum(group.macs for group in board.groups)
    work = sum(board.groups[index].macs for index in kept) + board.never
    return {"kept": [board.groups[index].nodes[0] for index in kept], "work_in_int8": round(1 - work / total, 4),
            "evaluations": evaluations, "loss": round(current, 4)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-drop", type=float, default=0.005)
    parser.add_argument("--cases", type=Path, help="folder of cases")
    parser.add_argument("--only", nargs="*", help="names of networks or cases")
    parser.add_argument("--greedy", action="store_true")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="trtpipe-tuning-") as scratch:
        cache = Path(scratch, "cache")
        jobs = {name: lambda name=name: own_job(name, Path(scratch, name), cache) for name in ("depthwise", "detector")}
        for case in sorted(options.cases.glob("*/case.py")) if options.cases else ():
            jobs[case.parent.name] = lambda case=case: case_job(case.parent, cache)
        for name, make in jobs.items():
            if not options.only or name in options.only:
                work = Path(scratch, f"work-{name}")
                work.mkdir()
                found.append(measure(name, make(), options.max_drop, options.greedy, work))
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"machine": machine_line(), "max_drop": options.max_drop, "runs": found}, indent=2))


if __name__ == "__main__":
    main()
