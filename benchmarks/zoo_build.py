"""One network of the zoo from the module to engines; runs in a worker of ``zoo.py``."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from zoo_compare import compared
from zoo_models import feeds, load
from zoo_results import Built

import trtpipe
from trtpipe.errors import TrtpipeError
from trtpipe.progress import NullProgress

#: decibels of what the input changes, below which a build that passed is far off
_FAR_OFF = 10.0
#: samples to calibrate on, and to compare on
_SAMPLES, _HELD_OUT = 12, 12
_ENDS = {0: "passed", 2: "refused", 3: "gate failed", 5: "refused", 6: "environment"}


@dataclass(frozen=True)
class _Ended:
    """How one build ended, before anything is compared."""

    outcome: str
    stage: str
    message: str
    seconds: dict[str, float]


class _Stages(NullProgress):
    """Remembers the last stage that began."""

    last = ""

    def begin(self, step: str) -> None:
        self.last = step


def build(name: str, precisions: Sequence[str], work: Path) -> list[Built]:
    """Build one network in each precision, and compare what came of it."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    source = load(name)
    data = list(feeds(name, seed=1, count=_SAMPLES))
    ended = {precision: _attempt(source, data, precision, work) for precision in precisions}
    bundles = {each: _bundle(work, each) for each in precisions}
    graphs = {each: bundle / "lowered.onnx" for each, bundle in bundles.items() if bundle is not None}
    errors = compared(name, source, graphs, _HELD_OUT)
    torch._dynamo.reset()
    return [_built(name, each, ended[each], bundles[each], errors.get(each, (None, None))) for each in precisions]


def _attempt(source: tuple[object, ...], data: Sequence[object], precision: str, work: Path) -> _Ended:
    stages, begin = _Stages(), time.perf_counter()
    profile = trtpipe.DeploymentProfile.model_validate(
        {"precision": precision, "backend": "tensorrt-rtx", "targets": ["sm89"]}
    )
    try:
        result = trtpipe.build(
            source, work / precision, calib_data=data, profile=profile, progress=stages,
            settings=trtpipe.Settings(cache_dir=work / "cache", threads=1, jobs=1),
        )  # fmt: skip
    except TrtpipeError as error:
        outcome, message = _ENDS.get(error.exit_code, "crash"), f"error: {error.message}\n  try: {error.remedy}"
        return _Ended(outcome, stages.last, message, {"total": round(time.perf_counter() - begin, 1)})
    except Exception:  # noqa: BLE001  what is not typed is what the table is to show
        return _Ended("crash", stages.last, traceback.format_exc()[-1500:], {})
    outcome = _ENDS.get(result.verdict.exit_code, "crash")
    seconds = {step.label: round(step.seconds, 2) for step in result.steps if step.seconds}
    total = {"total": round(time.perf_counter() - begin, 1)}
    message = "" if outcome == "passed" else "\n".join((result.verdict.accuracy.summary, *result.verdict.remarks))
    return _Ended(outcome, "" if outcome == "passed" else stages.last, message, {**seconds, **total})


def _bundle(work: Path, precision: str) -> Path | None:
    return next((work / each for each in (precision, f"{precision}.rejected") if (work / each).is_dir()), None)


def _built(
    name: str, precision: str, ended: _Ended, bundle: Path | None, errors: tuple[float | None, float | None]
) -> Built:
    far_off = ended.outcome == "passed" and (errors[1] is None or errors[1] < _FAR_OFF)
    outcome, coverage = "far off" if far_off else ended.outcome, None if bundle is None else _coverage(bundle)
    return Built(name, precision, outcome, ended.stage, ended.message, coverage, *errors, ended.seconds)


def _coverage(bundle: Path) -> float | None:
    record = bundle / "lowered.onnx.json"
    work = json.loads(record.read_text(encoding="utf-8")).get("work") if record.exists() else None
    return round(work["eight_bit"] / work["total"], 3) if work and work.get("total") else None
