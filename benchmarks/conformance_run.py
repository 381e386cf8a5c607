"""One node test through the stages of trtpipe, in this process, and a judgment of what came out."""

from __future__ import annotations

import re
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import onnx
from conformance_cases import Case

import trtpipe
import trtpipe.backends.trt.request
import trtpipe.stages.export
import trtpipe.stages.simplify
from trtpipe.artifact import Artifact
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.formats import Precision
from trtpipe.config.job import Job
from trtpipe.config.profile import ShapeRange
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.config.settings import Settings
from trtpipe.data.sample import ContentDigests, Sample
from trtpipe.errors import TrtpipeError
from trtpipe.isolation.worker_main import resolve
from trtpipe.pipeline.executor import prepared_without_store
from trtpipe.pipeline.pipeline import stages_named
from trtpipe.preflight.onnx_io import read_contract
from trtpipe.progress import NullProgress
from trtpipe.reference.runnable import runnable_graph
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.stage import Inputs

#: stages shared by all precisions of a test, and those of each precision
_ONCE = ("export", "simplify")
_EACH = ("observe", "calibrate", "lower", "compile")
#: a data source must have a name to count as given
_OWN_DATA = CalibrationRecipe(data=DataSettings(source="the test's own inputs"))
#: what stands for infinity in calibration data, as in the masks that models of real use have
_FAR = 1e4
#: largest accepted difference, as a share of the output's largest magnitude
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2, "int8": 4e-2, "fp8": 1e-1}
#: files whose tasks run in a child process for users; here a crash ends the pool's worker, which is one
_CHILDREN = (
    (trtpipe.stages.export, "call_forked"),
    (trtpipe.stages.simplify, "call_forked"),
    (trtpipe.backends.trt.request, "call"),
)


_Infer: TypeAlias = Callable[[Path, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What became of one test at one precision.

    Attributes:
        outcome: ``right``, ``uncompared`` (built, but random or beyond every runner), ``refused`` (typed, with operator
            and reason), ``vague`` (typed, but naming neither), ``wrong``, ``crash``, ``hang`` or ``untyped``.
        stage: the stage that refused or failed.
        built: whether there is an engine.
        reason: of a refusal, a failure, or of what was not compared.
        error: largest difference relative to the output's largest magnitude.
        runner: what computed the lowered graph, and the original one where it can.
        lowered: nodes of the graph that compute in the precision asked for.
    """

    case: str
    precision: str
    outcome: str
    stage: str = ""
    built: bool = False
    operators: tuple[str, ...] = ()
    reason: str = ""
    error: float | None = None
    runner: str = ""
    lowered: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class OwnData:
    """The test's own inputs as calibration data, in finite numbers: no source of data lets NaN and infinity through."""

    name = "the test's own inputs"
    size = 1
    samples = 1
    seed = None
    preprocessing = None
    warnings = ()
    skipped = ()

    def __init__(self, feed: dict[str, Any]) -> None:
        self._feed = {name: _finite(value) for name, value in feed.items()}

    def __iter__(self) -> Generator[Sample, None, None]:
        yield Sample(self._feed)

    def digests(self) -> ContentDigests:
        return ContentDigests("")


def _finite(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fV":  # V: bfloat16 and its like
        return value
    finite = np.nan_to_num(value.astype(np.float64), nan=0.0, posinf=_FAR, neginf=-_FAR)
    return np.where(np.isfinite(value.astype(np.float64)), value, finite.astype(value.dtype))


class Refused(Exception):
    """A stage did not make its artifact."""

    def __init__(self, stage: str, error: Exception) -> None:
        super().__init__(stage)
        self.stage = stage
        self.error = error


#: lowered graph (its digest) -> why it was not built; ``None`` if it was. Equal graphs of a test are built once.
_Builds: TypeAlias = dict[str, "Refused | None"]


def run_case(case: Case, precisions: Sequence[str], target: str = "sm89") -> list[Outcome]:
    """Lower, compare and build one test at each precision."""
    with tempfile.TemporaryDirectory() as folder, _in_this_process():
        work = Path(folder)
        source = work / f"{case.name[:100]}.onnx"
        source.write_bytes(case.model.SerializeToString())
        job = trtpipe.make_job(
            source, profile=_profile(case, "fp32", target), settings=Settings(cache_dir=work, threads=1)
        )
        try:
            table = run_stages(_ONCE, job, case, {}, work)
        except Refused as refused:
            return [_failed(case, precision, refused) for precision in precisions]
        builds: _Builds = {}
        return [_at(case, precision, job, table, work / precision, target, builds) for precision in precisions]


def lowered_graph(case: Case, precision: str, work: Path, target: str = "sm89") -> Path:
    """The lowered graph of one test.

    Raises:
        Refused: a stage raised an error.
    """
    with _in_this_process():
        source = work / "model.onnx"
        source.write_bytes(case.model.SerializeToString())
        profile = _profile(case, precision, target)
        job = trtpipe.make_job(source, profile=profile, settings=Settings(cache_dir=work, threads=1))
        return _lowered(job, case, run_stages(_ONCE, job, case, {}, work), work / precision)["lowered"].path


def run_stages(
    names: Sequence[str], job: Job, case: Case, given: dict[str, Artifact], folder: Path
) -> dict[str, Artifact]:
    """Run and check the stages called ``names`` on what is given; all artifacts.

    Raises:
        Refused: a stage raised an error.
    """
    table = dict(given)
    for stage in stages_named(*names):
        if isinstance(stage.settings(job), NotNeeded):
            continue
        workdir = folder / stage.name
        workdir.mkdir(parents=True)
        inputs = Inputs(table, {"calibration-data": OwnData(case.feed)})
        try:
            draft = prepared_without_store(stage, job, inputs).run(workdir, NullProgress())
        except Exception as error:
            raise Refused(stage.name, error) from error
        table[stage.produces] = draft.finish()
    return table


def _at(
    case: Case, precision: str, job: Job, table: dict[str, Artifact], folder: Path, target: str, builds: _Builds
) -> Outcome:
    job = replace(job, profile=_profile(case, precision, target), recipe=_OWN_DATA)
    try:
        lowered = _lowered(job, case, table, folder)
    except Refused as refused:
        return _failed(case, precision, refused)
    artifact = lowered["lowered"]
    judged = _judge(case, precision, artifact, folder)
    content = artifact.files[0].sha256
    if content not in builds:
        builds[content] = _built(job.for_target(job.targets[0]), case, artifact, folder)
    refused = builds[content]
    if refused is None:
        return replace(judged, built=True)
    failed = _failed(case, precision, refused)
    return judged if judged.outcome == "wrong" and failed.outcome in ("refused", "vague") else failed


def _lowered(job: Job, case: Case, table: dict[str, Artifact], folder: Path) -> dict[str, Artifact]:
    """Lowered with the test's inputs as data; 16 bits can do without, where no runner runs the model."""
    try:
        return run_stages(_EACH[:3], job, case, table, folder)
    except Refused as refused:
        if refused.stage != "observe" or job.profile.precision.calibrated:
            raise
    return run_stages(_EACH[:3], replace(job, recipe=CalibrationRecipe()), case, table, folder / "without-data")


def _built(job: Job, case: Case, artifact: Artifact, folder: Path) -> Refused | None:
    try:
        run_stages(_EACH[3:], job, case, {"lowered": artifact}, folder)
    except Refused as refused:
        return refused
    return None


def _judge(case: Case, precision: str, artifact: Artifact, folder: Path) -> Outcome:
    """Compare the lowered graph with the original one."""
    counts = LowerRecord.read(artifact.sidecar).counts
    word = {"fp16": "float16", "bf16": "bfloat16"}.get(precision, precision)
    judged = Outcome(case.name, precision, "right", operators=case.operators, lowered=counts.get(word, 0))
    if case.random:
        return replace(judged, outcome="uncompared", reason="drawn at random")
    path = _judged_graph(precision, artifact.path, folder)
    failure = ""
    for runner, infer in _RUNNERS.items():
        try:
            found = infer(path, case.feed)
        except _CANNOT as error:
            failure = f"{runner}: {_line(error)}"
            continue
        for wanted in filter(None, (_reference(case, infer, folder), case.expected)):
            error, reason = difference(wanted, found)
            judged = replace(judged, error=error, runner=runner)
            if not reason and error <= TOLERANCE[precision]:
                return judged
        return replace(judged, outcome="wrong", stage="lower", reason=reason or f"off by {error:.3g}")
    return replace(judged, outcome="uncompared", reason=f"no runner: {failure}")


def _judged_graph(precision: str, lowered: Path, folder: Path) -> Path:
    """The graph that shows what 16-bit storage does; the lowered one itself where the interface is of 16 bits."""
    contract = read_contract(lowered)
    half = any(spec.dtype in ("float16", "bfloat16") for spec in (*contract.inputs, *contract.outputs))
    return lowered if half else runnable_graph(lowered, Precision(precision).half, folder)[0]


def _reference(case: Case, infer: _Infer, folder: Path) -> dict[str, Any]:
    """The outputs of the original model by the same runner; where it cannot run that one, those in the test."""
    path = folder / "original.onnx"
    path.write_bytes(case.model.SerializeToString())
    try:
        return infer(path, case.feed)
    except _CANNOT:
        return case.expected


def _by_onnxruntime(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    with load_backend("onnxruntime").open(path, Settings(cache_dir=path.parent, threads=1)) as runner:
        names = {spec.name for spec in runner.inputs}
        return dict(runner.infer({name: value for name, value in feed.items() if name in names}))


def _by_reference_evaluator(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(onnx.load(path))
        values = evaluator.run(None, dict(feed))
    except Exception as error:
        raise RuntimeError(_line(error)) from error
    return dict(zip(evaluator.output_names, values, strict=True))


#: by preference; the second knows types that the first does not
_RUNNERS: dict[str, _Infer] = {"onnxruntime": _by_onnxruntime, "onnx's reference": _by_reference_evaluator}
_CANNOT = (TrtpipeError, RuntimeError)


def difference(wanted: dict[str, Any], found: dict[str, Any]) -> tuple[float, str]:
    """The largest difference relative to an output's largest magnitude, and in words what cannot be measured."""
    worst = 0.0
    for name, expected in wanted.items():
        if name not in found:
            return worst, f"output {name!r} is missing"
        if not isinstance(expected, np.ndarray | np.generic):
            return worst, f"output {name!r} is no tensor"
        a, b = np.asarray(expected), np.asarray(found[name])
        if a.shape != b.shape:
            return worst, f"output {name!r} has shape {b.shape}, not {a.shape}"
        if a.dtype.kind in "OUST":
            if (a != b).any():
                return worst, f"output {name!r} has other text"
            continue
        x, y = _float64(a), _float64(b)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        finite = np.isfinite(x)
        if (~same & ~(finite & np.isfinite(y))).any():
            return worst, f"output {name!r} has other infinities or NaN"
        gaps = np.abs(np.where(same, 0.0, x) - np.where(same, 0.0, y))
        peak = float(np.abs(x).max(where=finite, initial=0.0))
        if gaps.size and gaps.max() > 0:
            worst = max(worst, float(gaps.max()) / max(peak, 1e-3))
    return worst, ""


def _float64(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag]).astype(np.float64)
    return array.astype(np.float64)


def _failed(case: Case, precision: str, refused: Refused) -> Outcome:
    error = refused.error
    if not isinstance(error, TrtpipeError):
        text = "".join(traceback.format_exception(error))
        return Outcome(case.name, precision, "untyped", refused.stage, operators=case.operators, reason=text[-1500:])
    outcome = "refused" if tells(error.message, case) else "vague"
    return Outcome(case.name, precision, outcome, refused.stage, operators=case.operators, reason=error.message)


def tells(message: str, case: Case) -> bool:
    """Whether a refusal names an operator of the model, or the tensor it is about, and says more than "false"."""
    graph = case.model.graph
    tensors = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    words = {re.sub(r"(_\d+)+$", "", word) for word in re.findall(r"\w+", message)}  # nodes: Conv_0, Conv_0_1
    forms = ("'{}'", "({})", "put {}: ")  # the last is how a whole input is described
    parts = any(onnx.defs.has(word) for word in re.findall(r"\((\w+)\)", message))  # of an operator that was expanded
    named = not words.isdisjoint(case.operators) or any(form.format(n) in message for form in forms for n in tensors)
    named = named or parts
    return named and not message.rstrip().endswith("false")


def _profile(case: Case, precision: str, target: str) -> trtpipe.DeploymentProfile:
    shapes = {
        info.name: ShapeRange(min=shape, opt=shape, max=shape)
        for info in case.model.graph.input
        if _dynamic(info) and all(shape := tuple(np.shape(case.feed.get(info.name))))
    }
    return trtpipe.DeploymentProfile(
        precision=precision,  # type: ignore[arg-type]
        targets=(target,),
        backend="tensorrt-rtx",
        shapes=(shapes,) if shapes else (),
    )


def _dynamic(info: onnx.ValueInfoProto) -> bool:
    tensor = info.type.tensor_type
    return info.type.HasField("tensor_type") and any(dim.dim_value <= 0 for dim in tensor.shape.dim)


@contextmanager
def _in_this_process() -> Iterator[None]:
    """Let the stages call their tasks here instead of in a child process a task: two hundred times faster."""
    with ExitStack() as stack:
        for module, name in _CHILDREN:
            stack.enter_context(patch.object(module, name, _call_here))
        yield


def _call_here(task: str, request: Any, reply: Any, **_: object) -> Any:
    function, _record = resolve(task)
    answer = function(request, lambda *_: None)
    return reply.model_validate(answer.to_dict())


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
