"""The settings records of the stages: exactly what a stage reads of a request. A record is hashed as it is.

No record holds a path or a fact of the machine. What the user brings by content (the source, data, plug-in libraries,
a metric's function) is an input of a stage instead, under its digest. What does not apply is set to one fixed value, so
that equal work has equal records. Fields of one name mean the same in every record:

- ``precision``: what the lowered graph computes in.
- ``keep``, ``int8_nodes``: patterns of node names kept in FP32, or that may compute in INT8.
- ``shapes``: the typical input shapes, of the first optimization profile or of each.
- ``synthetic``: typical shapes of every profile, for random samples to compare outputs on; none where there is data.
- ``backend``, ``targets``: the back-end that builds engines, and the names of the GPUs it builds them for.
- ``build``: those options of the builder that decide what an engine is; see ``builder_options``.
- ``metric``: the task metric; ``None`` where none is measured.
- ``quick`` (an argument): whether the back-end builds quickly and says what is in its engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AfterValidator, PlainSerializer, PlainValidator

from trtpipe.artifact import Record
from trtpipe.config.build_request import Shapes, typical_shapes
from trtpipe.config.formats import FORMATS, Format, Precision, find_format
from trtpipe.config.methods import Method
from trtpipe.config.preprocessing import FoldedPreprocessing
from trtpipe.config.profile import (
    BuildSettings,
    DeploymentProfile,
    MeasuringSettings,
    MetricLimits,
    ShapeRange,
    Tolerance,
)
from trtpipe.config.recipe import EvaluationSettings, WeightMethod

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings


def _named(value: object) -> Format:
    form = value if isinstance(value, Format) else find_format(str(value))
    if form is None:
        raise ValueError(f"{value} is no format; formats: {', '.join(map(str, FORMATS))}")
    return form


#: A row of the table of formats, under its name in JSON.
NamedFormat: TypeAlias = Annotated[Format, PlainValidator(_named), PlainSerializer(str)]
#: Names or patterns whose order means nothing: sorted, each once.
Names: TypeAlias = Annotated[tuple[str, ...], AfterValidator(lambda names: tuple(sorted(set(names))))]


class QuantizationSettings(Record):
    """What decides, for a given model and its ranges, which nodes are quantized and how.

    Attributes:
        int8_nodes: ``None`` for precisions other than ``best``.
        weights: per-channel weight range: ``max`` or ``mse``.
        shapes: the work of a node is counted at them.
        attention: whether the two products of an attention may be quantized. Whether they gain by it depends on the
            builder and the size of the heads, so only where engines are compared.
    """

    precision: Precision
    keep: Names = ()
    int8_nodes: Names | None = None
    weights: WeightMethod = "max"
    shapes: Shapes = {}
    attention: bool = False

    @classmethod
    def of(cls, request: BuildRequest, *, quick: bool) -> QuantizationSettings | None:
        """Those of a request; ``None`` for a precision without 8-bit operators."""
        profile = request.profile
        if profile.precision.quantized is None:
            return None
        return cls(
            precision=profile.precision,
            keep=profile.keep,
            int8_nodes=profile.int8_nodes if profile.precision.mixed else None,
            weights=request.recipe.weights,
            shapes=typical_shapes(profile)[0],
            attention=profile.precision.compared and quick and bool(request.targets),
        )


class EngineSearchSettings(Record):
    """For which engines ``best`` compares placements of 8-bit nodes.

    Attributes:
        backend: empty where no target is named.
        targets: none where placements are not compared.
        tolerance: no placement may take outputs beyond it, where INT8 everywhere does not.
    """

    precision: Precision
    tolerance: Tolerance
    backend: str = ""
    targets: Names = ()
    shapes: Shapes = {}
    build: BuildSettings = BuildSettings()

    @classmethod
    def of(cls, request: BuildRequest, *, quick: bool) -> EngineSearchSettings | None:
        """Those of a request; ``None`` for a precision other than ``best``."""
        precision = request.profile.precision
        if not precision.compared:
            return None
        if not request.targets or not quick:
            backend = request.backend if request.targets else ""
            return cls(precision=precision, tolerance=request.profile.tolerance, backend=backend)
        return cls(
            precision=precision,
            tolerance=request.profile.tolerance,
            backend=request.backend,
            targets=tuple(target.name for target in request.targets),
            shapes=typical_shapes(request.profile)[0],
            build=builder_options(request.profile.build),
        )


class TorchExportSettings(Record):
    """What decides how a PyTorch source becomes a program; ``shapes`` are ranges over all optimization profiles."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    shapes: dict[str, ShapeRange]

    @classmethod
    def of(cls, profile: DeploymentProfile, folded: FoldedPreprocessing | None = None) -> TorchExportSettings:
        shapes: dict[str, ShapeRange] = {}
        for name, shape in (pair for each in profile.shapes for pair in each.items()):
            shapes[name] = shapes[name].joined(shape) if name in shapes else shape  # the program admits each of them
        shapes = shapes if folded is None else folded.as_model_shapes(shapes)
        export = profile.export
        return cls(
            input_names=export.input_names, output_names=export.output_names, shapes=dict(sorted(shapes.items()))
        )


class ExportStageSettings(Record):
    """Of the stage ``export``.

    Attributes:
        opset, program: of a PyTorch source: the opset to export to, and how.
        freeze: of an ONNX file: patterns of the inputs with default values that become constants.
        requantize: whether the model's own quantizers are taken out.
        kept: the 16-bit format that it may keep.
        preprocessing: what is written in front of the model; ``None`` for nothing.
        shapes: the graph is compared at them with what it was before, where preprocessing is written.
    """

    opset: int | None = None
    program: TorchExportSettings | None = None
    freeze: tuple[str, ...] = ()
    requantize: bool = False
    kept: NamedFormat | None = None
    preprocessing: FoldedPreprocessing | None = None
    shapes: Shapes = {}


class CaptureSettings(Record):
    """Of the stage ``capture``; ``half`` is the 16-bit format that the program computes in."""

    program: TorchExportSettings
    half: NamedFormat | None


class SimplifySettings(Record):
    """Of the stage ``simplify``.

    Attributes:
        onnxsim: whether onnxsim may rewrite the graph.
        opset: the least opset of the result.
        shapes: the result is checked at them.
        fixed: of every input with ranges, the numbers that never vary.
    """

    onnxsim: bool
    opset: int
    shapes: Shapes
    fixed: dict[str, tuple[int | None, ...]]


class ObserveSettings(Record):
    """Of the stage ``observe``; neither the calibration method nor the kept nodes count.

    Attributes:
        ranges: whether tensors that may be quantized are observed.
        attention: whether what the two products of an attention read is among them.
        tensor_ranges: whether the extremes of all float32 tensors are.
        skip_bad_samples: how many bad samples may be left out.
    """

    ranges: bool
    attention: bool
    tensor_ranges: bool
    skip_bad_samples: int


class ShardSettings(Record):
    """Of ``observe-shard``: those of ``observe``, and which part of the data it is."""

    whole: ObserveSettings
    index: int
    count: int


class TrialSettings(Record):
    """What decides how a quantized model does on samples.

    Attributes:
        tolerant: whether samples are left out on which the float32 graph fails or is not finite.
    """

    quantization: QuantizationSettings
    tolerant: bool


class GateSettings(Record):
    """What the outputs of a quantized graph have to hold, on calibration data already.

    Attributes:
        precision: its defaults fill the gaps of the tolerance.
        least_coverage: share of the quantizable multiply-accumulates that stay in 8 bits whatever the outputs say.
    """

    precision: Precision
    tolerance: Tolerance
    least_coverage: float

    @classmethod
    def of(cls, profile: DeploymentProfile) -> GateSettings:
        return cls(
            precision=profile.precision, tolerance=profile.tolerance, least_coverage=profile.accuracy.min_coverage
        )


class CalibrateSettings(Record):
    """Of the stage ``calibrate``.

    Attributes:
        format: what ranges are for.
        percentile: ``None`` for other methods.
        gate: what corrections are to reach; ``None``: none are looked for.
        trials: what the quantized model is run for, by method ``auto`` and by corrections; ``None`` for neither.
    """

    format: NamedFormat
    method: Method
    percentile: float | None
    gate: GateSettings | None
    trials: TrialSettings | None


class LowerSettings(Record):
    """Of the stage ``lower``.

    Attributes:
        keep: none for ``fp32``.
        quantization: what is quantized; ``None`` for a precision without 8-bit operators.
        search: the engines that ``best`` compares; ``None`` for other precisions.
    """

    precision: Precision
    keep: Names
    quantization: QuantizationSettings | None
    search: EngineSearchSettings | None


class CompileSettings(Record):
    """Of the stage ``compile``.

    Attributes:
        target: empty where it is not decided.
        together: the targets that share one plan with this one, itself included; empty where it is alone.
        precision: of a program of PyTorch's; ``fp32`` for a graph, which has its precision in it.
        shapes: the optimization profiles.
    """

    backend: str
    target: str
    together: tuple[str, ...]
    precision: Precision
    shapes: tuple[dict[str, ShapeRange], ...]
    build: BuildSettings


class ReferenceSettings(Record):
    """Of the stage ``reference``; ``preprocessing`` is what the graph does to images before the program sees them."""

    synthetic: tuple[Shapes, ...]
    preprocessing: FoldedPreprocessing | None = None


class MetricSettings(Record):
    """The task metric.

    Attributes:
        name: one of trtpipe's own; empty for the user's function, which is an input by its content.
        output: the output that it reads, or the figure that counts; empty for the first.
        lower_is_better: whether the figure of the user's function is an error.
    """

    name: str
    output: str
    lower_is_better: bool

    @classmethod
    def of(cls, evaluation: EvaluationSettings | None) -> MetricSettings | None:
        if evaluation is None:
            return None
        own = evaluation.own
        return cls(
            name="" if own else evaluation.metric,
            output=evaluation.output,
            lower_is_better=own and evaluation.lower_is_better,
        )

    def evaluation(self, function: str) -> EvaluationSettings:
        """What measures it; ``function`` says where the user's is, if the metric is one."""
        return EvaluationSettings(
            metric=self.name or function, output=self.output, lower_is_better=self.lower_is_better
        )


class VerifySettings(Record):
    """Of the stage ``verify``.

    Attributes:
        precision: also decides default tolerances, and whether storage is emulated.
        demanded: whether the metric was asked for by name, so that labels must be there.
        limits: of the metric.
        samples: how many samples are compared at most, where no metric asks for all.
    """

    precision: Precision
    tolerance: Tolerance
    metric: MetricSettings | None
    demanded: bool
    samples: int
    limits: MetricLimits
    synthetic: tuple[Shapes, ...]
    backend: str
    targets: Names


class MeasureSettings(Record):
    """Of the stage ``measure``.

    Attributes:
        emulated: the 16-bit format of the lowered graph, where CPUs have to emulate it; else ``None``.
    """

    latency: MeasuringSettings
    shapes: tuple[Shapes, ...]
    emulated: NamedFormat | None
    backend: str
    targets: Names


class SensitivitySettings(Record):
    """Of the stage ``sensitivity``.

    Attributes:
        samples: feeds at most.
        half: whether float16 is tried as well.
    """

    trials: TrialSettings
    samples: int
    half: bool


class EvaluateSettings(Record):
    """Of the stage ``evaluate``.

    Attributes:
        of: the graph whose metric is measured.
        precision: of a lowered graph, whose 16-bit storage is emulated; ``fp32`` for the exported model.
    """

    of: Literal["model", "lowered"]
    precision: Precision
    metric: MetricSettings | None


class CalibrationQuote(Record):
    """What a manifest quotes of a recipe."""

    method: Method
    percentile: float
    weights: WeightMethod
    corrections: Literal["auto", "none"]


class BundleSettings(Record):
    """Of the stage ``bundle``: all that the manifest quotes.

    Attributes:
        trtpipe: its version.
        source: what the user named, without folders.
        profile: plug-ins without folders, patterns in an order of their own.
        calibration: of the recipe; ``None`` for a precision without ranges.
        classes: names of the model's classes, where the recipe has them.
    """

    trtpipe: str
    source: str
    backend: str
    targets: tuple[str, ...]
    handed_over: tuple[str, ...]
    profile: DeploymentProfile
    simplify: bool
    calibration: CalibrationQuote | None
    classes: tuple[str, ...] = ()


def trial_settings(request: BuildRequest, *, quick: bool) -> TrialSettings | None:
    """How a quantized model is tried on samples; ``None`` for a precision without 8-bit operators."""
    quantization = QuantizationSettings.of(request, quick=quick)
    if quantization is None:
        return None
    return TrialSettings(quantization=quantization, tolerant=request.recipe.data.skip_bad_samples > 0)


def asked_of_builder(build: BuildSettings, plugins: tuple[Path, ...], runtime: Settings) -> BuildSettings:
    """The options of a record with what it leaves out: where plug-ins are on this machine, and its limits."""
    return build.model_copy(
        update={
            "plugins": tuple(map(str, plugins)),
            "time_limit": runtime.engine_seconds,
            "memory_limit": runtime.engine_memory,
        }
    )


def builder_options(build: BuildSettings) -> BuildSettings:
    """Those options that decide what an engine is: without plug-ins, which count by content, and without what decides
    how a build goes or what the graph is.
    """
    ours = {"plugins": (), "time_limit": None, "memory_limit": None, "shared_plan": True, "fold_preprocessing": False}
    return build.model_copy(update=ours)
