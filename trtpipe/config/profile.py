"""Deployment profiles: what to build, for which GPUs and shapes, and when the result is good enough.

A profile is a TOML file in ``profiles/``; every key can be overridden on the command line.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from trtpipe.artifact import Record
from trtpipe.config.formats import FULL_PRECISION, Precision
from trtpipe.config.target import find_target
from trtpipe.config.tomlfile import load_toml
from trtpipe.config.units import parse_bytes, parse_seconds
from trtpipe.errors import InputError


def _from_text(parse: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _target_name(text: str) -> str:
    try:
        return find_target(text).name
    except InputError as error:
        raise ValueError(f"{error.message}; {error.remedy}") from error


Bytes = Annotated[int, _from_text(parse_bytes), Field(gt=0)]
Seconds = Annotated[float, _from_text(parse_seconds), Field(gt=0, allow_inf_nan=False)]
TargetName = Annotated[str, _from_text(_target_name)]
#: TensorRT-RTX keeps what it is given in 32 bits, and does not notice when it is more.
Dims = Annotated[tuple[Annotated[int, Field(ge=1, lt=1 << 31)], ...], Field()]


class ShapeRange(Record):
    """The smallest, the typical and the largest shape of one dynamic input: 1 at least, and 32 bits at most."""

    min: Dims
    opt: Dims
    max: Dims

    @model_validator(mode="after")
    def _ordered(self) -> ShapeRange:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError(f"min, opt and max differ in rank: {len(self.min)}, {len(self.opt)}, {len(self.max)}")
        for axis, (low, mid, high) in enumerate(zip(self.min, self.opt, self.max, strict=True)):
            if not low <= mid <= high:
                raise ValueError(f"dimension {axis}: min {low} <= opt {mid} <= max {high} does not hold")
        return self

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


class OutputTolerance(Record):
    """When two outputs count as equal.

    ``elemwise``: every element is within ``atol`` of the reference, or within ``rtol * |reference|`` (Polygraphy's
    rule; numpy's adds the two). ``max``, ``mean``, ``median``: that statistic of ``|x - reference|`` is at most
    ``atol`` plus ``rtol`` times the same statistic of ``|reference|``, so that elements near zero do not decide.

    Attributes:
        atol, rtol: absolute and relative tolerance.
        stat: the statistic compared.
        min_cosine: least cosine similarity of the flattened outputs; ``None`` to ignore.
        min_agreement: of integer and boolean outputs, to which none of the above applies: the least share of values
            that are equal.
    """

    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    stat: Literal["elemwise", "max", "mean", "median"] | None = None
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = None


class Tolerance(OutputTolerance):
    """Tolerances for all outputs, and per output in ``outputs``. Unset fields use the precision's default."""

    outputs: dict[str, OutputTolerance] = {}

    def for_output(self, name: str, precision: Precision) -> OutputTolerance:
        """The tolerance in force for one output: its own, then the general one, then the precision's default."""
        merged = asdict(precision.tolerance)
        for layer in (self, self.outputs.get(name)):
            if layer is not None:
                merged |= {k: v for k, v in layer.model_dump(exclude={"outputs"}).items() if v is not None}
        return OutputTolerance.model_validate(merged)


class AccuracyGate(Record):
    """The task metric may fall by at most ``max_drop`` (in the metric's own unit: 0.01 is one point of top-1)."""

    max_drop: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01


class LatencySettings(Record):
    """How latency is measured, in trtexec's words, and the budget it has to meet.

    Attributes:
        warmup, duration: how long to run before timing, and how long to time.
        iterations: least number of runs that are timed.
        cuda_graph: whether an engine's kernels are launched as one CUDA graph.
        transfers: whether copies to and from the GPU are part of an inference.
        batches: batch sizes to measure at; empty: as the shapes have it.
        max_p99: the budget.
        cpu: whether the lowered graph is timed on the CPU where no GPU here runs the engines.
    """

    warmup: Seconds = 0.2
    duration: Seconds = 3.0
    iterations: Annotated[int, Field(ge=1)] = 10
    cuda_graph: bool = True
    transfers: bool = True
    batches: tuple[Annotated[int, Field(ge=1)], ...] = ()
    max_p99: Seconds | None = None
    cpu: bool = False


class BuildSettings(Record):
    """Options of the engine builder, with trtexec's meaning. Which flavor takes which: docs/building.md.

    Attributes:
        workspace: most scratch memory of the engine, in bytes; ``None``: the builder's default.
        opt_level: effort of the builder.
        timing_cache: whether kernels timed by earlier builds on this machine are not timed again; ``None``: yes, where
            the flavor times any.
        version_compatible: the engine also runs on later versions of the same major version.
        exclude_lean_runtime: such an engine does not carry its own runtime.
        hardware_compatibility: on which other GPUs the engine runs too.
        weight_streaming: weights may stay in host memory and be streamed to the GPU.
        strip_weights: the plan holds no weights that can be put back by a refit.
        refit: all weights can be exchanged in a finished engine.
        sparsity: kernels for weights with two zeros in every four may be used.
        dla_core: the Deep Learning Accelerator to build for; ``None``: the GPU.
        gpu_fallback: layers that the accelerator cannot run are run by the GPU.
        max_aux_streams: CUDA streams that an inference may use besides its own.
        plugins: shared libraries with plug-ins; taken from a profile only, because their code is run.
        shared_plan: several targets may share one plan, where the flavor allows that.
        time_limit, memory_limit: what the build of one engine may take, in seconds and bytes.
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


class ExportSettings(Record):
    """Options of the PyTorch export.

    Attributes:
        opset: of the exported model; TensorRT 10.3 reads up to 20.
        input_names, output_names: names for the graph's inputs and outputs, in order. By default inputs are called
            as in ``forward``'s signature, and outputs by the keys of a returned dict, else ``output``, ``output_1``.
    """

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()


class DeploymentProfile(Record):
    """Everything that decides a build except the model and the data.

    Attributes:
        precision: what the lowered graph computes in.
        targets: GPU targets, as capabilities (``sm89``) or product names (``rtx4090``).
        backend: which TensorRT flavor builds; ``auto`` picks one and says why.
        shapes: one optimization profile, or several; input name -> min/opt/max. ``"auto"``: see ``auto_shapes``.
        auto_shapes: whether ranges that are not given are inferred from the calibration data.
        keep: patterns (shell style) of node names that stay in float32.
        int8_nodes: patterns of node names that ``best`` may compute in INT8; all others stay in FP16.
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
    tolerance: Tolerance = Tolerance()
    accuracy: AccuracyGate = AccuracyGate()
    latency: LatencySettings = LatencySettings()
    build: BuildSettings = BuildSettings()
    export: ExportSettings = ExportSettings()

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
        """Read a profile from TOML.

        Raises:
            RecipeError: the file or a key in it is wrong; the message names both.
        """
        return load_toml(Path(path), cls)
