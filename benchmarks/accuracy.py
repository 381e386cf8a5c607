"""Accuracy after lowering: case by precision by tool, on the same graph, calibration data and runner.

    python benchmarks/accuracy.py CASES [--only NAME ...] [--precisions int8 fp16 bf16] [--peers FOLDER]
                                  [--tools modelopt:entropy onnxruntime:minmax ...] [--out RESULT.json]

CASES is a folder of folders, each with a ``case.py``: MODEL, ``calibration()``, which yields feeds, and
``evaluate(run)``, which gives the task metric and ``n``, the number of samples it rests on. With ``--peers`` other
quantisers run in an environment that is made in FOLDER (2 GB); see ``peers.py``. They get the simplified graph and the
feeds that trtpipe gets. All results are run by onnxruntime on the CPU, with Q/DQ pairs computed as they are written;
16-bit results by rounding what is stored to 16 bits.

The exit status is 1 if trtpipe is below the better peer by more than two standard errors of the metric.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from types import ModuleType

import onnxruntime
import peers
from benchmarks_common import machine_line
from calibration_accuracy import load

import trtpipe
from trtpipe.backends.base import load_backend
from trtpipe.calibration.ranges import Ranges
from trtpipe.pipeline import stages_named
from trtpipe.progress import Silent
from trtpipe.publish import publish_folder
from trtpipe.recipe import CalibrationRecipe, DataSettings
from trtpipe.runs import BuildResult, run_published
from trtpipe.settings import Settings
from trtpipe.stages.running import runnable_graph

FLOAT, OURS = "float32", "trtpipe"
TOOLS = ("modelopt:entropy", "modelopt:max", "onnxruntime:minmax")
_TO_LOWER = ("export", "simplify", "observe", "calibrate", "lower")
_PEER_MEMORY = 10 << 30


@dataclass(frozen=True)
class Row:
    """One figure: the metric of a case, lowered by a tool; ``error`` says why there is none."""

    case: str
    precision: str
    tool: str
    metric: str = ""
    value: float | None = None
    samples: int = 0
    error: str = ""
    repairs: tuple[str, ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--precisions", nargs="+", default=["int8"], choices=["int8", "fp16", "bf16", "fp8"])
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--tools", nargs="*", default=list(TOOLS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    names = arguments.only or sorted(path.parent.name for path in arguments.cases.glob("*/case.py"))
    if not names:
        print(f"{arguments.cases}: no folder in it has a case.py", file=sys.stderr)
        return 2
    python = None if arguments.peers is None else peers.peer_python(arguments.peers)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            case = Case(arguments.cases / name, Path(work, name))
            found = [case.float(), *(case.ours(precision) for precision in arguments.precisions)]
            if python is not None and "int8" in arguments.precisions:
                found += [case.theirs(python, tool) for tool in arguments.tools]
            for row in found:
                print(line(row), flush=True)
            rows += found
    behind = [name for name in names if falls_behind([row for row in rows if row.case == name])]
    for name in behind:
        print(f"{name}: below the better peer by more than noise", file=sys.stderr)
    if arguments.out:
        document = {
            "machine": machine_line(),
            "runner": f"onnxruntime {onnxruntime.__version__}, CPU, Q/DQ as written",
            "rows": [asdict(row) for row in rows],
        }
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if behind else 0


class Case:
    """One model with its data; files go into ``work``."""

    def __init__(self, folder: Path, work: Path) -> None:
        self._name, self._work, self._source = folder.name, work, folder / "case.py"
        self._module: ModuleType = load(self._source)
        self._settings = Settings(cache_dir=work / "cache")
        trtpipe.simplify(trtpipe.make_job(settings=self._settings, engines=False), Path(self._module.MODEL), work)
        self._simplified = work / "simplified.onnx"

    def float(self) -> Row:
        return self._evaluated("float32", FLOAT, Path(self._module.MODEL))

    def ours(self, precision: str) -> Row:
        """With all defaults."""
        recipe = CalibrationRecipe(data=DataSettings(source=f"{self._source}:calibration"))
        profile = trtpipe.DeploymentProfile.model_validate({"precision": precision})
        job = trtpipe.make_job(
            self._module.MODEL, profile=profile, recipe=recipe, settings=self._settings, engines=False
        )
        out = self._work / precision

        def publish(result: BuildResult) -> Path:
            publish_folder(result.artifacts, out)
            return out

        try:
            run_published(job, stages_named(*_TO_LOWER), {}, publish, Silent())
        except trtpipe.TrtpipeError as error:
            return Row(self._name, precision, OURS, error=error.message)
        taken: tuple[str, ...] = ()
        if (ranges := out / "ranges.json").is_file():
            taken = tuple(trial.repair for trial in Ranges.read(ranges).repairs.trials if trial.taken)
        graph, _ = runnable_graph(out / "lowered.onnx", profile.precision, out)
        return self._evaluated(precision, OURS, graph, taken)

    def theirs(self, python: Path, tool: str) -> Row:
        feeds = self._work / "feeds.npz"
        if not feeds.exists():
            peers.write_feeds(feeds, self._module.calibration())
        out = self._work / f"{tool.replace(':', '-')}.onnx"
        name, _, method = tool.partition(":")
        cost = peers.quantise(python, name, method, self._simplified, feeds, out, _PEER_MEMORY)
        if cost.error:
            return Row(self._name, "int8", tool, error=cost.error)
        return self._evaluated("int8", tool, out)

    def _evaluated(self, precision: str, tool: str, model: Path, repairs: tuple[str, ...] = ()) -> Row:
        try:
            with load_backend("onnxruntime").open(model, self._settings) as runner:
                inputs = {spec.name for spec in runner.inputs}
                found = self._module.evaluate(lambda feed: runner.infer({name: feed[name] for name in inputs}))
        except trtpipe.TrtpipeError as error:
            return Row(self._name, precision, tool, error=error.message)
        metric = next(iter(found))
        return Row(self._name, precision, tool, metric, float(found[metric]), int(found["n"]), repairs=repairs)


def line(row: Row) -> str:
    value = f"{row.value:.4f} {row.metric}, n = {row.samples}" if row.value is not None else f"- {row.error[:100]}"
    repairs = f"  ({', '.join(row.repairs)})" if row.repairs else ""
    return f"{row.case:20} {row.precision:8} {row.tool:22} {value}{repairs}"


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
