"""The settings records of the stages: exactly what a stage reads of a request. A record is hashed as it is.

No record holds a path or a fact of the machine. What the user brings by content (the source, data, plug-in libraries,
a metric's function) is an input of a stage instead, under its digest. What does not apply is set to one fixed value, so
that equal work has equal records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeAlias

from pydantic import PlainSerializer, PlainValidator

from trtpipe.artifact import Record
from trtpipe.config.formats import FORMATS, Format, Precision, find_format
from trtpipe.config.methods import Method
from trtpipe.config.profile import BuildSettings, DeploymentProfile, LatencySettings, ShapeRange, Tolerance
from trtpipe.config.recipe import EvaluationSettings, WeightMethod

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.config.settings import Settings
    from trtpipe.config.source import Source
    from trtpipe.config.target import Target


def _named(value: object) -> Format:
    form = value if isinstance(value, Format) else find_format(str(value))
    if form is None:
        raise ValueError(f"{value} is no format; formats: {', '.join(map(str, FORMATS))}")
    return form


#: A row of the table of formats, under its name in JSON.
NamedFormat: TypeAlias = Annotated[Format, PlainValidator(_named), PlainSerializer(str)]
#: Input name -> shape.
Shapes: TypeAlias = dict[str, tuple[int, ...]]


class BuildRequest(Protocol):
    """What a settings record may be made from: what the user asked for, and nothing of the machine."""

    @property
    def source(self) -> Source | None: ...

    @property
    def profile(self) -> DeploymentProfile: ...

    @property
    def recipe(self) -> CalibrationRecipe: ...

    @property
    def backend(self) -> str: ...

    @property
    def targets(self) -> tuple[Target, ...]: ...

    @property
    def target(self) -> Target | None: ...

    @property
    def together(self) -> tuple[Target, ...]: ...

    @property
    def simplify(self) -> bool: ...

    @property
    def allow_random(self) -> bool: ...


class NotNeeded(Record):
    """In place of settings: why a request does not need a stage."""

    reason: str


def typical_shapes(profile: DeploymentProfile) -> tuple[Shapes, ...]:
    """The typical (``opt``) shapes of every optimization profile; one that is empty where there is none."""
    found = tuple({name: shape.opt for name, shape in shapes.items()} for shapes in profile.shapes)
    return found or ({},)


class QuantizationSettings(Record):
    """What decides, for a given model and its ranges, which nodes are quantized and how.

    Attributes:
        precision: the 8-bit precision asked for.
        keep: patterns of node names that stay in float32.
        int8_nodes: patterns of node names that may compute in INT8; ``None`` for precisions other than ``best``.
        weights: how far each channel of a weight reaches.
        shapes: the typical input shapes, at which the work of a node is counted.
        attention: whether the two products of an attention may be quantized. Whether they gain by it depends on the
            builder and the size of the heads, so only where engines are compared.
    """

    precision: Precision
    keep: tuple[str, ...] = ()
    int8_nodes: tuple[str, ...] | None = None
    weights: WeightMethod = "max"
    shapes: Shapes = {}
    attention: bool = False

    @classmethod
    def of(cls, request: BuildRequest, *, quick: bool) -> QuantizationSettings | None:
        """Those of a request; ``None`` for a precision without 8-bit operators.

        Args:
            quick: whether the back-end builds quickly and says what is in its engines.
        """
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
        precision: what the graphs are lowered to.
        backend: the back-end that builds; empty where no target is named.
        targets: names of the GPUs to build for, sorted; none where placements are not compared.
        shapes: the typical input shapes, for which engines are built.
        build: options of the builder.
    """

    precision: Precision
    backend: str = ""
    targets: tuple[str, ...] = ()
    shapes: Shapes = {}
    build: BuildSettings = BuildSettings()

    @classmethod
    def of(cls, request: BuildRequest, *, quick: bool) -> EngineSearchSettings | None:
        """Those of a request; ``None`` for a precision other than ``best``.

        Args:
            quick: whether the back-end builds quickly and says what is in its engines.
        """
        if not request.profile.precision.compared:
            return None
        if not request.targets or not quick:
            precision = request.profile.precision
            return cls(precision=precision, backend=request.backend if request.targets else "")
        return cls(
            precision=request.profile.precision,
            backend=request.backend,
            targets=tuple(sorted({target.name for target in request.targets})),
            shapes=typical_shapes(request.profile)[0],
            build=builder_options(request.profile.build),
        )


class TorchExportSettings(Record):
    """What decides how a PyTorch source becomes a program.

    Attributes:
        input_names, output_names: names for inputs and outputs, in order.
        shapes: every input's range over all optimization profiles.
    """

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    shapes: dict[str, ShapeRange]

    @classmethod
    def of(cls, profile: DeploymentProfile) -> TorchExportSettings:
        """Those of a profile."""
        shapes: dict[str, ShapeRange] = {}
        for name, shape in (pair for each in profile.shapes for pair in each.items()):
            shapes[name] = shapes[name].joined(shape) if name in shapes else shape  # the program admits each of them
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
    """

    opset: int | None = None
    program: TorchExportSettings | None = None
    freeze: tuple[str, ...] = ()
    requantize: bool = False
    kept: NamedFormat | None = None


class CaptureSettings(Record):
    """Of the stage ``capture``.

    Attributes:
        program: how PyTorch exports.
        half: the 16-bit format that the program computes in; ``None`` for none.
    """

    program: TorchExportSettings
    half: NamedFormat | None


class SimplifySettings(Record):
    """Of the stage ``simplify``.

    Attributes:
        onnxsim: whether onnxsim may rewrite the graph.
        opset: the least opset of the result.
        shapes: the typical input shapes, at which the result is checked.
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
        extents: whether the extremes of all float32 tensors are.
        skip_bad_samples: how many bad samples may be left out.
    """

    ranges: bool
    attention: bool
    extents: bool
    skip_bad_samples: int


class TrialSettings(Record):
    """What decides how a quantized model does on samples.

    Attributes:
        quantization: what is quantized, and how.
        tolerant: whether samples are left out on which the float32 graph fails or is not finite.
    """

    quantization: QuantizationSettings
    tolerant: bool


class CalibrateSettings(Record):
    """Of the stage ``calibrate``.

    Attributes:
        format: the quantized format that ranges are for.
        method: how ranges are chosen.
        percentile: share of magnitudes kept, in percent; ``None`` for other methods.
        corrections: whether corrections are looked for.
        trials: what the quantized model is run for, by method ``auto`` and by corrections; ``None`` for neither.
    """

    format: NamedFormat
    method: Method
    percentile: float | None
    corrections: bool
    trials: TrialSettings | None


class LowerSettings(Record):
    """Of the stage ``lower``.

    Attributes:
        precision: what the lowered graph computes in.
        keep: patterns of node names that stay in float32; none for ``fp32``.
        quantization: what is quantized; ``None`` for a precision without 8-bit operators.
        search: the engines that ``best`` compares; ``None`` for other precisions.
    """

    precision: Precision
    keep: tuple[str, ...]
    quantization: QuantizationSettings | None
    search: EngineSearchSettings | None


class CompileSettings(Record):
    """Of the stage ``compile``.

    Attributes:
        backend: the back-end that builds.
        target: the GPU to build for; empty where it is not decided.
        together: the targets that share one plan with this one, itself included; empty where it is alone.
        precision: of a program of PyTorch's; ``fp32`` for a graph, which has its precision in it.
        shapes: the optimization profiles.
        build: options of the builder.
    """

    backend: str
    target: str
    together: tuple[str, ...]
    precision: Precision
    shapes: tuple[dict[str, ShapeRange], ...]
    build: BuildSettings


class ReferenceSettings(Record):
    """Of the stage ``reference``.

    Attributes:
        synthetic: the typical shapes of every optimization profile, for random samples; none where there is data.
    """

    synthetic: tuple[Shapes, ...]


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
        """Those of a recipe's evaluation."""
        if evaluation is None:
            return None
        own = evaluation.own
        return cls(
            name="" if own else evaluation.metric,
            output=evaluation.output,
            lower_is_better=own and evaluation.lower_is_better,
        )

    def evaluation(self, function: str) -> EvaluationSettings:
        """What measures it.

        Args:
            function: where the user's function is, if the metric is one.
        """
        return EvaluationSettings(
            metric=self.name or function, output=self.output, lower_is_better=self.lower_is_better
        )


class VerifySettings(Record):
    """Of the stage ``verify``.

    Attributes:
        precision: what the lowered graph computes in: its default tolerances, and whether its storage is emulated.
        tolerance: when outputs count as equal.
        metric: the task metric; ``None`` where none is measured.
        demanded: whether the metric was asked for by name, so that labels must be there.
        max_drop: how far the metric may fall; ``None`` where none is measured.
        synthetic: the typical shapes of every optimization profile, for random samples; none where there is data.
        backend: the back-end that builds engines.
        targets: names of the GPUs that engines are built for.
    """

    precision: Precision
    tolerance: Tolerance
    metric: MetricSettings | None
    demanded: bool
    max_drop: float | None
    synthetic: tuple[Shapes, ...]
    backend: str
    targets: tuple[str, ...]


class MeasureSettings(Record):
    """Of the stage ``measure``.

    Attributes:
        latency: how to measure, and the budget.
        shapes: the typical shapes of every optimization profile.
        emulated: the 16-bit format of the lowered graph, where CPUs have to emulate it; else ``None``.
        backend: the back-end that builds engines.
        targets: names of the GPUs that engines are built for.
    """

    latency: LatencySettings
    shapes: tuple[Shapes, ...]
    emulated: NamedFormat | None
    backend: str
    targets: tuple[str, ...]


class SensitivitySettings(Record):
    """Of the stage ``sensitivity``.

    Attributes:
        trials: what is quantized, and which samples count.
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
        metric: the task metric; ``None`` where the user named none.
    """

    of: Literal["model", "lowered"]
    precision: Precision
    metric: MetricSettings | None


class CalibrationQuote(Record):
    """What a manifest quotes of a recipe."""

    method: Method
    percentile: float
    weights: WeightMethod


class BundleSettings(Record):
    """Of the stage ``bundle``: all that the manifest quotes.

    Attributes:
        trtpipe: version of trtpipe.
        source: what the user named, without folders.
        backend: the back-end that builds engines.
        targets: names of the GPUs that engines are built for.
        profile: the deployment profile; plug-ins without folders.
        simplify: whether onnxsim might rewrite the graph.
        calibration: of the recipe; ``None`` for a precision without ranges.
    """

    trtpipe: str
    source: str
    backend: str
    targets: tuple[str, ...]
    profile: DeploymentProfile
    simplify: bool
    calibration: CalibrationQuote | None


def synthetic_shapes(request: BuildRequest) -> tuple[Shapes, ...]:
    """The shapes of random samples to compare outputs on; none where the request names data, or allows random data."""
    evaluation = request.recipe.evaluation
    if request.recipe.data.source or request.allow_random or (evaluation is not None and evaluation.source):
        return ()
    return typical_shapes(request.profile)


def trial_settings(request: BuildRequest, *, quick: bool) -> TrialSettings | None:
    """How a quantized model is tried on samples; ``None`` for a precision without 8-bit operators.

    Args:
        quick: whether the back-end builds quickly and says what is in its engines.
    """
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
    how a build goes.
    """
    return build.model_copy(update={"plugins": (), "time_limit": None, "memory_limit": None, "shared_plan": True})
