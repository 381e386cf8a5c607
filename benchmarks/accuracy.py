"""Accuracy after lowering: case by precision by tool, on the same graph, calibration data and runner.

    python benchmarks/accuracy.py CASES [--only NAME ...] [--precisions fp16 bf16 int8 best fp8] [--target GPU]
                                  [--peers FOLDER] [--tools modelopt:entropy onnxruntime:minmax ...]
                                  [--limit N] [--earlier RESULT.json] [--out RESULT.json]

CASES is a folder of folders, each with a ``case.py``: MODEL, ``calibration()``, which yields feeds, and
``evaluate(run, limit)``, which gives the task metric and ``n``, the number of samples it rests on. It may have
PROFILES, the shapes of its inputs, and MODELS, variants by name, which are cases of their own: ``NAME:VARIANT``. With
``--peers`` other quantizers run in an environment that is made in FOLDER (2 GB); see ``peers.py``. They get the
simplified graph and the feeds that trtpipe gets. All results are run by onnxruntime on the CPU, with Q/DQ pairs
computed as they are written; 16-bit results by rounding what is stored to 16 bits, and watching for what would
overflow. With ``--target`` what was lowered is also built with TensorRT-RTX, and the builder's summary of the engine
kept. ``--earlier`` takes rows of cases, precisions and tools that are not run this time from an older result; each
row has its date.

The exit status is 1 if trtpipe is below the better peer by more than two standard errors of the metric.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from math import sqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import peers
from benchmarks_common import machine_line
from calibration_accuracy import load

import trtpipe
from trtpipe.api.results import BuildResult, run_published
from trtpipe.backends.base import load_backend
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.job import Job
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.config.settings import Settings
from trtpipe.engine.record import EngineRecord
from trtpipe.isolation.reducer import Runner
from trtpipe.pipeline.pipeline import stages_named
from trtpipe.pipeline.publish import publish_folder
from trtpipe.progress import NullProgress
from trtpipe.reference.runnable import open_watched
from trtpipe.reference.storage import StorageWatch
from trtpipe.report.stage_records import LowerRecord

FLOAT, OURS = "float32", "trtpipe"
PRECISIONS = ("fp16", "bf16", "int8", "best", "fp8")
TOOLS = ("modelopt:entropy", "modelopt:max", "onnxruntime:minmax", "nncf:symmetric", "nncf:control")
_TO_LOWER = ("export", "simplify", "observe", "calibrate", "lower")
_PEER_MEMORY = 10 << 30


@dataclass(frozen=True)
class Row:
    """One figure: the metric of a case, lowered by a tool; ``error`` says why there is none.

    Attributes:
        eight_bit: share of the multiply-accumulates in 8 bits, where the precision has them.
        nodes: how many nodes are in each precision.
        overflows: tensors that would become infinite in 16 bits on the evaluation data.
        notes: what lowering told: why less than 95 % is in 8 bits, what engines showed.
        engine: the builder's summary, or why there is no engine.
    """

    case: str
    precision: str
    tool: str
    metric: str = ""
    value: float | None = None
    samples: int = 0
    error: str = ""
    corrections: tuple[str, ...] = ()
    eight_bit: float | None = None
    nodes: Mapping[str, int] | None = None
    overflows: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    engine: str = ""
    date: str = ""

    @property
    def what(self) -> tuple[str, str, str]:
        """What the figure is about."""
        return self.case, self.precision, self.tool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--precisions", nargs="*", default=["int8"], choices=PRECISIONS)
    parser.add_argument("--target", help="build what is lowered for this GPU too")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--tools", nargs="*", default=list(TOOLS))
    parser.add_argument("--limit", type=int, help="evaluate on fewer samples, as the case counts them")
    parser.add_argument("--earlier", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    names = arguments.only or list(every_case(arguments.cases))
    if not names:
        print(f"{arguments.cases}: no folder in it has a case.py", file=sys.stderr)
        return 2
    python = None if arguments.peers is None else peers.peer_python(arguments.peers)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            case = Case(arguments.cases, name, Path(work, name.replace(":", "-")), arguments.target, arguments.limit)
            runs: list[Callable[[], Row]] = [case.float]
            runs += [partial(case.ours, precision) for precision in arguments.precisions]
            if python is not None:
                runs += [partial(case.theirs, python, tool) for tool in arguments.tools]
            for run in runs:
                rows.append(run())
                print(line(rows[-1], rows), flush=True)
                keep(rows, arguments.earlier, arguments.out)
    rows = merged(rows, arguments.earlier)
    behind = [name for name in names if falls_behind([row for row in rows if row.case == name])]
    for name in behind:
        print(f"{name}: below the better peer by more than noise", file=sys.stderr)
    return 1 if behind else 0


def every_case(folder: Path) -> Iterator[str]:
    """The cases in a folder, and the variants of each that are not its MODEL."""
    for source in sorted(folder.glob("*/case.py")):
        yield source.parent.name
        module = load(source)
        variants: Mapping[str, str] = getattr(module, "MODELS", {})
        yield from (f"{source.parent.name}:{name}" for name, path in variants.items() if path != module.MODEL)


def merged(rows: list[Row], earlier: Path | None) -> list[Row]:
    """These rows, and those of an earlier result that are about something else; by case."""
    today = datetime.now(timezone.utc).date().isoformat()
    fresh = {row.what: replace(row, date=today) for row in rows}
    old = [] if earlier is None else [Row(**row) for row in json.loads(earlier.read_text())["rows"]]
    found = {row.what: row for row in old} | fresh
    order = {tool: n for n, tool in enumerate((FLOAT, OURS, *TOOLS))}
    steps = {precision: n for n, precision in enumerate((FLOAT, *PRECISIONS))}
    return sorted(
        found.values(), key=lambda row: (row.case, order.get(row.tool, len(order)), steps[row.precision], row.tool)
    )


def keep(rows: list[Row], earlier: Path | None, out: Path | None) -> None:
    """Write what there is so far."""
    if out is None:
        return
    document = {
        "machine": machine_line(),
        "runner": f"onnxruntime {onnxruntime.__version__}, CPU, Q/DQ as written, 16-bit storage emulated",
        "rows": [asdict(row) for row in merged(rows, earlier)],
    }
    out.write_text(json.dumps(document, indent=2) + "\n")


class Case:
    """One model with its data; files go into ``work``."""

    def __init__(self, folder: Path, name: str, work: Path, target: str | None, limit: int | None) -> None:
        self._name, self._work, self._target, self._limit = name, work, target, limit
        base, _, variant = name.partition(":")
        self._source = folder / base / "case.py"
        self._module: ModuleType = load(self._source)
        self._model = Path(self._module.MODELS[variant] if variant else self._module.MODEL)
        self._settings = Settings(cache_dir=work / "cache")
        trtpipe.simplify(self._model, work, settings=self._settings)
        self._simplified = work / "simplified.onnx"

    def float(self) -> Row:
        return self._evaluated("float32", FLOAT, self._model)

    def ours(self, precision: str) -> Row:
        """With all defaults."""
        job, out = self._job(precision), self._work / precision
        row = Row(self._name, precision, OURS)

        def publish(result: BuildResult) -> Path:
            publish_folder(result.artifacts, out)
            return out

        try:
            run_published(job, stages_named(*_TO_LOWER), {}, publish, NullProgress())
            row = self._watched(job, out, replace(row, **_decided(out)))
        except trtpipe.TrtpipeError as error:
            return replace(row, error=error.message)
        return row if self._target is None else replace(row, engine=_engine(job, out))

    def _job(self, precision: str) -> Job:
        shapes: Mapping[str, Any] = getattr(self._module, "PROFILES", {})
        profile = {"precision": precision, "shapes": [shapes] if shapes else []}
        if self._target is not None:
            profile |= {"targets": [self._target], "backend": "tensorrt-rtx"}
        return trtpipe.make_job(
            self._model,
            profile=trtpipe.DeploymentProfile.model_validate(profile),
            recipe=CalibrationRecipe(data=DataSettings(source=f"{self._source}:calibration")),
            settings=self._settings,
            engines=self._target is not None,
        )

    def _watched(self, job: Job, out: Path, row: Row) -> Row:
        """The metric of what was lowered, and what overflowed on the way."""
        with ExitStack() as stack:
            runner = open_watched(out / "lowered.onnx", job.profile.precision, out, job.settings, stack).runner
            row = self._scored(row, runner)
        half = job.profile.precision.half
        if isinstance(runner, StorageWatch) and half is not None:
            found = runner.overflows(half)
            row = replace(row, overflows=tuple(each.tensor for each in found))
        return row

    def theirs(self, python: Path, tool: str) -> Row:
        feeds = self._work / "feeds.npz"
        if not feeds.exists():
            peers.write_feeds(feeds, self._module.calibration())
        out = self._work / f"{tool.replace(':', '-')}.onnx"
        name, _, method = tool.partition(":")
        cost = peers.quantize(python, name, method, self._simplified, feeds, out, self._source, _PEER_MEMORY)
        if cost.error:
            return Row(self._name, "int8", tool, error=cost.error)
        return self._evaluated("int8", tool, out)

    def _evaluated(self, precision: str, tool: str, model: Path) -> Row:
        row = Row(self._name, precision, tool)
        try:
            with load_backend("onnxruntime").open(model, self._settings) as runner:
                return self._scored(row, runner)
        except trtpipe.TrtpipeError as error:
            return replace(row, error=error.message)

    def _scored(self, row: Row, runner: Runner) -> Row:
        inputs = {spec.name for spec in runner.inputs}

        def run(feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            return runner.infer({name: feed[name] for name in inputs})

        found = self._module.evaluate(run) if self._limit is None else self._module.evaluate(run, self._limit)
        metric = next(iter(found))
        return replace(row, metric=metric, value=float(found[metric]), samples=int(found["n"]))


def _decided(out: Path) -> dict[str, Any]:
    """What the records beside a lowered graph say of it, as fields of a row."""
    record = LowerRecord.read(out / "lowered.onnx.json")
    ranges = out / "ranges.json"
    trials = Ranges.read(ranges).corrections.trials if ranges.is_file() else ()
    return {
        "eight_bit": None if record.work is None else round(record.work.share, 4),
        "nodes": record.counts,
        "notes": record.notes,
        "corrections": tuple(trial.correction for trial in trials if trial.taken),
    }


def _engine(job: Job, out: Path) -> str:
    """The builder's summary of the engine, or why it refuses."""
    try:
        trtpipe.compile(out / "lowered.onnx", out, profile=job.profile, settings=job.settings)
    except trtpipe.TrtpipeError as error:
        return f"none: {error.message}"
    report = EngineRecord.read(out / f"{job.targets[0].name}.plan.json").report
    return "built" if report is None else report.summary


def line(row: Row, rows: list[Row]) -> str:
    """A figure, how far it is from float32 among ``rows``, and what belongs to it."""
    if row.value is None:
        return f"{row.case:24} {row.precision:8} {row.tool:19} - {row.error[:100]}"
    whole = next(each.value for each in rows if each.case == row.case and each.tool == FLOAT)
    far = "" if row.tool == FLOAT or whole is None else f" ({row.value - whole:+.4f})"
    more = [f"n = {row.samples}"]
    more += [f"{100 * row.eight_bit:.1f} % in 8 bits"] if row.eight_bit is not None else []
    more += [f"{len(row.overflows)} OVERFLOWS"] if row.overflows else []
    more += [*row.corrections, row.engine] if row.engine else [*row.corrections]
    return f"{row.case:24} {row.precision:8} {row.tool:19} {row.value:.4f} {row.metric}{far}, {', '.join(more)}"


def falls_behind(rows: list[Row]) -> bool:
    """Whether ours is below the better peer by more than two standard errors of a share of ``samples``."""
    ours = [row for row in rows if row.tool == OURS and row.precision == "int8" and row.value is not None]
    theirs = [row.value for row in rows if row.tool not in (OURS, FLOAT) and row.value is not None]
    if not ours or not theirs:
        return False
    value, samples = ours[0].value, ours[0].samples
    assert value is not None
    return value < max(theirs) - 2 * sqrt(max(value * (1 - value), 0) / samples)


if __name__ == "__main__":
    sys.exit(main())
