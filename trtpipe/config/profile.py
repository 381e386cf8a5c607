"""Deployment profiles: what to build, for which GPUs and shapes, and when the result is good enough.

A profile is a TOML file in ``profiles/``; every key can be overridden on the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationInfo,
    field_validator,
    model_validator,
)

from trtpipe.artifact import Record
from trtpipe.config.formats import FULL_PRECISION, Precision
from trtpipe.config.metrics import METRICS, limit_of_drop, limit_of_value
from trtpipe.config.paths import path_of
from trtpipe.config.presets import found
from trtpipe.config.target import find_target
from trtpipe.config.tomlfile import FROM_FILE, load_toml
from trtpipe.config.units import amount, exact_bytes, exact_seconds, parse_amount, parse_bytes, parse_seconds
from trtpipe.config.user_record import UserRecord
from trtpipe.errors import InputError


def _from_text(parse: Callable[[str], object]) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _quantity(parse: Callable[[str], object]) -> BeforeValidator:
    """A quantity: in a file it has a unit; in Python a number is in bytes, or seconds."""

    def read(value: object, info: ValidationInfo) -> object:
        bare = isinstance(value, int | float) and not isinstance(value, bool)
        return parse(str(value)) if isinstance(value, str) or (bare and info.context == FROM_FILE) else value

    return BeforeValidator(read)


def _with_unit(form: Callable[[Any], str]) -> PlainSerializer:
    """As a file has it, where it is written to one."""

    def write(value: Any, info: SerializationInfo) -> Any:
        return form(value) if info.context == FROM_FILE and value is not None else value

    return PlainSerializer(write)


def _target_name(text: str) -> str:
    try:
        return find_target(text).name
    except InputError as error:
        raise ValueError(f"{error.message}; {error.remedy}") from error


Bytes = Annotated[int, _quantity(parse_bytes), Field(gt=0), _with_unit(exact_bytes)]
Seconds = Annotated[float, _quantity(parse_seconds), Field(gt=0, allow_inf_nan=False), _with_unit(exact_seconds)]
#: An amount of a metric, as ``parse_amount`` gives it.
Amount = Annotated[float | str, BeforeValidator(parse_amount)]
#: A share of 1, in any of the ways to write an amount.
Share = Annotated[float, BeforeValidator(lambda value: amount(parse_amount(value), bounded=False)), Field(ge=0, le=1)]
TargetName = Annotated[str, _from_text(_target_name)]
#: 0 is a length too: that of an empty cache. TensorRT-RTX keeps what it is given in 32 bits, and does not notice when
#: it is more.
Dims = Annotated[tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...], Field()]


class ShapeRange(UserRecord):
    """The smallest, the typical and the largest shape of one dynamic input: 0 at least, and 31 bits at most."""

    min: Dims
    opt: Dims
    max: Dims

    @model_validator(mode="after")
    def _ordered(self) -> ShapeRange:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError(f"min, opt and max differ in rank: {len(self.min)}, {len(self.opt)}, {len(self.max)}")
        for axis, (low, mid, high) in enumerate(zip(self.min, self.opt, self.max, strict=True)):
            if not low <= mid <= high:
                raise ValueError(f"dimension {axis}: min {low}, opt {mid}, max {high} violate min <= opt <= max")
        return self

    def permuted(self, axes: Sequence[int]) -> ShapeRange:
        """The same range with its axes in another order."""
        low, typical, high = (tuple(dims[axis] for axis in axes) for dims in (self.min, self.opt, self.max))
        return ShapeRange(min=low, opt=typical, max=high)

    def joined(self, other: ShapeRange) -> ShapeRange:
        """The smallest range that holds both; typical is what is typical here.

        Raises:
            InputError: their ranks differ.
        """
        if len(self.opt) != len(other.opt):
            raise InputError(
                f"two optimization profiles give one input shapes of rank {len(self.opt)} and {len(other.opt)}",
                "give an input shapes of one rank",
            )
        return ShapeRange(
            min=tuple(map(min, self.min, other.min)), opt=self.opt, max=tuple(map(max, self.max, other.max))
        )


#: TensorRT's word for one set of min/opt/max shapes: input name -> range.
OptimizationProfile: TypeAlias = "dict[str, ShapeRange]"


class OutputTolerance(UserRecord):
    """When two outputs count as equal.

    ``elemwise``: every element is within ``atol`` of the reference, or within ``rtol * |reference|`` (Polygraphy's
    rule; numpy's adds the two). ``max``, ``mean``, ``median``: that statistic of ``|x - reference|`` is at most
    ``atol`` plus ``rtol`` times what the samples change in the reference, so that neither elements near zero nor an
    offset decide: with ``m`` the mean of an element over samples, the largest ``|reference - m|`` for ``max``, its
    root mean square for the others. Of a single sample ``m`` is the mean of its elements. Where samples change nothing
    (random inputs, a constant output) it is the same statistic of ``|reference|`` instead.

    Attributes:
        atol, rtol: absolute and relative tolerance.
        stat: the statistic compared.
        min_cosine: least cosine similarity of ``x - m`` and ``reference - m``.
        min_snr_db: least signal-to-noise ratio in dB: the power of ``reference - m`` over that of ``x - reference``.
        min_agreement: of integer and boolean outputs, to which none of the above applies: the least share of values
            that are equal.
    """

    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    stat: Literal["elemwise", "max", "mean", "median"] | None = None
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    min_snr_db: Annotated[float, Field(allow_inf_nan=False)] | None = None
    min_agreement: Share | None = None


class Tolerance(OutputTolerance):
    """Tolerances for all outputs, and per output in ``outputs``. Unset fields use the precision's default.

    Attributes:
        unordered: outputs whose rows (axis 1) may come in any order, such as boxes with their scores and classes; those
            with as many rows move together.
        ignore: output -> where it does not count: the value that the reference has there (a padding), or the name of
            the input that is 0 there (a mask, whose axes are the first ones of the output).
    """

    outputs: dict[str, OutputTolerance] = {}
    unordered: tuple[str, ...] = ()
    ignore: dict[str, float | str] = {}

    def for_output(self, name: str, precision: Precision) -> OutputTolerance:
        """The tolerance in force for one output: its own, then the general one, then the precision's default."""
        merged = asdict(precision.tolerance)
        for layer in (self, self.outputs.get(name)):
            if layer is not None:
                merged |= {
                    k: v
                    for k, v in layer.model_dump(include=set(OutputTolerance.model_fields)).items()
                    if v is not None
                }
        return OutputTolerance.model_validate(merged)


class AccuracyGate(UserRecord):
    """What a build has to reach, and what it may cost.

    Amounts are absolute, never relative. Of a metric that is a share, ``1%``, ``1pt`` and ``0.01`` are the same: one
    point; 1 and more need a unit. A metric of the user's own may be in any unit, and plain numbers are in it.

    Attributes:
        max_drop: by how much the task metric may be worse than the reference's.
        min_metric: metric -> its least value; of an error, its largest.
        min_coverage: share of the multiply-accumulates of quantizable nodes that remain quantized to 8 bits, even if
            outputs are not within tolerance.
        samples: how many samples outputs are compared on at most, evenly spread over the data, where no metric asks for
            all. 16 give the noise to about 1 dB where it differs by a factor of two among samples, and calibration
            leaves 2 dB.
    """

    max_drop: Amount = 0.01
    min_metric: dict[str, Amount] = {}
    min_coverage: Share = 0.7
    samples: Annotated[int, Field(ge=1)] = 16

    @field_validator("max_drop")
    @classmethod
    def _not_negative(cls, value: float | str) -> float | str:
        if amount(value, bounded=False) < 0:
            raise ValueError(f"{value} is negative: give by how much the metric may be worse, such as 0.5%")
        return value

    def of(self, metric: str | None) -> MetricLimits:
        """The limits, in the metric's own unit.

        Args:
            metric: its name; of a function of the user's, how a recipe names it. ``None`` where none is measured.

        Raises:
            InputError: an amount can be read in two ways, or is none that the metric can have; a limit is for another
                metric than the one measured.
        """
        if metric is None:
            if self.min_metric:
                names = ", ".join(self.min_metric)
                raise InputError(f"min_metric {names}: no metric is measured", "add --eval-data DATA with labels")
            return MetricLimits()
        if other := next((name for name in self.min_metric if metric in METRICS and name != metric), ""):
            raise InputError(f"min_metric {other}: the metric is {metric}", f"write {metric}=VALUE")
        floors = {name: limit_of_value(f"min_metric {name}", each, metric) for name, each in self.min_metric.items()}
        return MetricLimits(max_drop=limit_of_drop("max_drop", self.max_drop, metric), min_metric=floors)


class MetricLimits(Record):
    """An accuracy gate in the unit of its metric; ``max_drop`` is ``None`` where no metric is measured."""

    max_drop: float | None = None
    min_metric: dict[str, float] = {}


class MeasuringSettings(UserRecord):
    """How latency is measured, in trtexec's words.

    Attributes:
        warmup, duration: how long to run before timing, and how long to time.
        iterations: least number of runs that are timed.
        cuda_graph: whether an engine's kernels are launched as one CUDA graph.
        transfers: whether copies to and from the GPU are part of an inference.
        batches: batch sizes to measure at; empty: as the shapes have it.
        cpu: whether the lowered graph is timed on the CPU where no GPU here runs the engines.
    """

    warmup: Seconds = 0.2
    duration: Seconds = 3.0
    iterations: Annotated[int, Field(ge=1)] = 10
    cuda_graph: bool = True
    transfers: bool = True
    batches: tuple[Annotated[int, Field(ge=1)], ...] = ()
    cpu: bool = False


class LatencySettings(MeasuringSettings):
    """How latency is measured, and the limit it has to meet.

    Attributes:
        max_p99: the limit of the latency gate, for GPU figures on every shape.
    """

    max_p99: Seconds | None = None

    @property
    def measuring(self) -> MeasuringSettings:
        """All but the limit, of which no figure depends."""
        return MeasuringSettings.model_validate(self.model_dump(exclude={"max_p99"}))


class BuildSettings(UserRecord):
    """Options of the engine builder, with trtexec's meaning. Which flavor takes which: docs/building.md.

    Attributes:
        workspace: workspace limit, in bytes; ``None``: the builder's default.
        opt_level: builder optimization level.
        timing_cache: whether kernels timed by earlier builds on this machine are not timed again; ``None``: yes, where
            the flavor times any.
        version_compatible: the engine also runs on later versions of the same major version.
        exclude_lean_runtime: such an engine does not carry its own runtime.
        hardware_compatibility: on which other GPUs the engine runs too.
        weight_streaming: weights may stay in host memory and be streamed to the GPU.
        strip_weights: weight-stripped engine: the plan holds no weights that a refit can put back.
        refit: refittable engine: all weights of it can be replaced after the build.
        sparsity: kernels for weights with 2:4 structured sparsity may be used.
        dla_core: the Deep Learning Accelerator to build for; ``None``: the GPU.
        gpu_fallback: layers that the accelerator cannot run are run by the GPU.
        max_aux_streams: CUDA streams that an inference may use besides its own.
        plugins: shared libraries with plug-ins; taken from a profile only, because their code is run.
        shared_plan: several targets may share one plan, where the flavor allows that.
        fold_preprocessing: the normalization and layout of the recipe's images are part of the graph, which takes
            uint8[N, H, W, C].
        time_limit, memory_limit: build timeout and memory limit of one engine, in seconds and bytes.
    """

    workspace: Bytes | None = None
    opt_level: Annotated[int, Field(ge=0, le=5)] | None = None
    timing_cache: bool | None = None
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    hardware_compatibility: Literal["none", "ampere+", "same-compute-capability"] = "none"
    weight_streaming: bool = False
    strip_weights: bool = False
    refit: bool = False
    sparsity: bool = False
    dla_core: Annotated[int, Field(ge=0, le=7)] | None = None
    gpu_fallback: bool = False
    max_aux_streams: Annotated[int, Field(ge=0, le=64)] | None = None
    plugins: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    shared_plan: bool = True
    fold_preprocessing: bool = False
    time_limit: Seconds | None = None
    memory_limit: Bytes | None = None

    @model_validator(mode="after")
    def _together(self) -> BuildSettings:
        if self.exclude_lean_runtime and not self.version_compatible:
            raise ValueError("exclude_lean_runtime needs version_compatible: only such an engine carries a runtime")
        if self.gpu_fallback and self.dla_core is None:
            raise ValueError(
                "gpu_fallback needs dla_core, without which it has no effect: name a core, or leave it out"
            )
        return self


class ExportSettings(UserRecord):
    """How a source becomes an ONNX model: options of the PyTorch export, and of reading an ONNX file.

    Attributes:
        opset: of the exported model; TensorRT 10.3 reads up to 20.
        input_names, output_names: names for the graph's inputs and outputs, in order. By default inputs are called
            as in ``forward``'s signature, and outputs by the keys of a returned dict, else ``output``, ``output_1``.
        freeze_inputs: of an ONNX file, patterns (shell style) of inputs with default values that become constants.
    """

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    freeze_inputs: tuple[str, ...] = ()


class StoreSettings(UserRecord):
    """Where results are shared with other machines: part of no result.

    Attributes:
        url: ``s3://``, ``gs://``, ``az://`` or ``file://``; ``TRTPIPE_STORE`` overrides it. Empty: nowhere.
    """

    url: Annotated[str, Field(repr=False)] = ""


class DeploymentProfile(UserRecord):
    """Everything that decides a build except the model and the data.

    Attributes:
        precision: what the lowered graph computes in.
        targets: GPU targets, as capabilities (``sm89``) or product names (``rtx4090``).
        backend: which TensorRT flavor builds; ``auto`` picks one and says why.
        shapes: one optimization profile, or several; input name -> min/opt/max. ``"auto"``: see ``auto_shapes``.
        auto_shapes: whether ranges that are not given are inferred from the calibration data.
        keep: patterns (shell style) of node names to keep in FP32.
        int8_nodes: patterns of node names that ``best`` may compute in INT8; all others stay in FP16.
        requantize: whether the quantizers of a model that is quantized already are taken out.
    """

    description: str = ""
    precision: Precision = FULL_PRECISION
    #: Two names of one GPU are one target.
    targets: Annotated[tuple[TargetName, ...], AfterValidator(lambda names: tuple(dict.fromkeys(names)))] = ()
    backend: Literal["auto", "tensorrt", "tensorrt-rtx", "torch-tensorrt", "null"] = "auto"
    shapes: tuple[dict[str, ShapeRange], ...] = ()
    auto_shapes: bool = False
    keep: tuple[str, ...] = ()
    int8_nodes: tuple[str, ...] = ("*",)
    requantize: bool = False
    tolerance: Tolerance = Tolerance()
    accuracy: AccuracyGate = AccuracyGate()
    latency: LatencySettings = LatencySettings()
    build: BuildSettings = BuildSettings()
    export: ExportSettings = ExportSettings()
    store: StoreSettings = StoreSettings()

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("shapes"), dict):
            return {**data, "shapes": (data["shapes"],)}
        if isinstance(data, dict) and data.get("shapes") == "auto":
            return {**data, "shapes": (), "auto_shapes": True}
        return data

    @model_validator(mode="after")
    def _inferred_is_one(self) -> DeploymentProfile:
        if self.auto_shapes and len(self.shapes) > 1:
            raise ValueError("shapes can be inferred for one optimization profile, not for several")
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DeploymentProfile:
        """Read a profile from TOML; ``edge`` and other names are those that come with trtpipe.

        Raises:
            RecipeError: the file or a key in it is wrong; the message names both.
        """
        return load_toml(found(path_of(path, "path"), "profiles"), cls)
