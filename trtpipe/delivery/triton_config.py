"""``config.pbtxt`` of one model in a Triton model repository: a record, its text, and what would make Triton refuse it.

The fields are those of ``inference.ModelConfig`` (model_config.proto of triton-inference-server/common); the rules are
those of its server, and stricter where the server would only fail on the first request.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from trtpipe.config.formats import HALF_FORMATS
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIG, WARMUP = "config.pbtxt", "warmup"
#: What the server calls a model: a folder of the repository, and a part of URLs.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_CAPABILITY = re.compile(r"[1-9]\d?\.\d")
#: Back-end -> the name that its models have by default.
_BACKENDS = {"tensorrt": "model.plan", "onnxruntime": "model.onnx", "python": "model.py"}
_SIZES = {
    "TYPE_BOOL": 1, "TYPE_UINT8": 1, "TYPE_UINT16": 2, "TYPE_UINT32": 4, "TYPE_UINT64": 8, "TYPE_INT8": 1,
    "TYPE_INT16": 2, "TYPE_INT32": 4, "TYPE_INT64": 8, "TYPE_FP16": 2, "TYPE_FP32": 4, "TYPE_FP64": 8, "TYPE_BF16": 2,
    "TYPE_STRING": 0,
}  # fmt: skip
_WORDS = {"b": "BOOL", "u": "UINT", "i": "INT", "f": "FP"}
#: Types of 16 bits that numpy does not have.
_OWN = {form.storage: f"TYPE_{form.name.upper()}" for form in HALF_FORMATS if not form.cpu_kernels}
#: The types of the values of a shape tensor.
_OF_SHAPES = ("TYPE_INT32", "TYPE_INT64")


def data_type(dtype: str) -> str | None:
    """Triton's word for an element type; ``None`` if it has none.

    >>> data_type("float32"), data_type("object"), data_type("complex64")
    ('TYPE_FP32', 'TYPE_STRING', None)
    """
    if dtype in _OWN:
        return _OWN[dtype]
    try:
        found = np.dtype(dtype)
    except TypeError:
        return "TYPE_STRING" if dtype in ("string", "str") else None
    if found.kind in "OUS":
        return "TYPE_STRING"
    word = _WORDS.get(found.kind)
    name = "TYPE_BOOL" if word == "BOOL" else f"TYPE_{word}{8 * found.itemsize}"
    return name if name in _SIZES else None


@dataclass(frozen=True)
class TensorConfig:
    """An input or output; ``dims`` without the batch axis, -1 for any length.

    Attributes:
        reshape: the model's own shape, where requests have another; ``None``: the same.
        shape_tensor: whether TensorRT reads its values on the host.
        labels: file with the names of the classes; outputs only.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    shape_tensor: bool = False
    labels: str = ""


@dataclass(frozen=True)
class InstanceGroup:
    """Copies of the model that run at once; ``profiles`` are indices of optimization profiles."""

    kind: Literal["KIND_GPU", "KIND_CPU"] = "KIND_GPU"
    count: int = 1
    gpus: tuple[int, ...] = ()
    profiles: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batching:
    """Dynamic batching; the delay is in microseconds."""

    preferred: tuple[int, ...] = ()
    delay: int = 0


@dataclass(frozen=True)
class WarmupInput:
    """One input of a warm-up request, from a file of raw values in the model's ``warmup`` folder."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    file: str


@dataclass(frozen=True)
class Warmup:
    """A request that the server makes before the model is ready."""

    name: str
    batch: int
    inputs: tuple[WarmupInput, ...]


@dataclass(frozen=True)
class Step:
    """One model of an ensemble: its inputs and outputs -> the ensemble's tensors."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class ModelConfig:
    """What ``config.pbtxt`` says of one model.

    Attributes:
        backend: empty for an ensemble.
        file: the model's file in a version's folder; empty: the back-end's default.
        of_capability: compute capability (``8.9``) -> another file, for GPUs that ``file`` is not for.
        profiles: how many optimization profiles the plan has.
        level: the highest level of graph optimization that onnxruntime may use, 0 to 99.
    """

    name: str
    backend: str
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    max_batch_size: int = 0
    groups: tuple[InstanceGroup, ...] = ()
    batching: Batching | None = None
    file: str = ""
    of_capability: Mapping[str, str] = field(default_factory=dict)
    warmup: tuple[Warmup, ...] = ()
    steps: tuple[Step, ...] = ()
    profiles: int = 1
    level: int = 99

    @property
    def files(self) -> tuple[str, ...]:
        """Files that every version's folder has to hold."""
        own = self.file or _BACKENDS.get(self.backend, "")
        return tuple(dict.fromkeys(name for name in (own, *self.of_capability.values()) if name))

    def to_text(self) -> str:
        """The content of ``config.pbtxt``: equal records give equal text."""
        return "\n".join(_lines(self)) + "\n"


def check(config: ModelConfig, files: Mapping[str, int], labels: int = 0) -> None:
    """Raise InputError, naming the field, unless Triton would take this model.

    Args:
        files: what its folder will hold: names relative to it (``warmup/x``; those of versions without the number) ->
            sizes in bytes.
        labels: how many lines each file of labels has.
    """
    for where, problem, remedy in (
        *_of_name(config),
        *_of_tensors(config, labels),
        *_of_batching(config),
        *_of_groups(config),
        *_of_files(config, files),
        *_of_warmup(config, files),
        *_of_steps(config),
    ):
        raise InputError(f"{config.name or 'Triton model'}: {CONFIG}: {where}: {problem}", remedy)


_RECORD = "correct the package's record, or make the package again"
_SETTING = "correct it in the settings of --triton-settings"


def _of_name(config: ModelConfig) -> Iterator[tuple[str, str, str]]:
    if not _NAME.fullmatch(config.name):
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", config.name).strip("_.-") or "model"
        yield (
            "name",
            f"{config.name!r} is no name for a model: letters, digits, '_', '.' and '-' are, after a letter or digit",
            f"give one with name = {plain[:200]!r} in the file of --triton-settings",
        )
    if config.backend not in _BACKENDS and not (config.steps and not config.backend):
        yield "backend", f"{config.backend!r} is none of {', '.join(_BACKENDS)}", _SETTING
    if config.max_batch_size < 0:
        yield "max_batch_size", f"{config.max_batch_size} is negative", _SETTING


def _of_tensors(config: ModelConfig, labels: int) -> Iterator[tuple[str, str, str]]:
    names = [each.name for each in (*config.inputs, *config.outputs)]
    for side, tensors in (("input", config.inputs), ("output", config.outputs)):
        if not tensors:
            yield side, "there is none", _RECORD
        for each in tensors:
            where = f"{side} {each.name!r}"
            if not each.name or names.count(each.name) > 1:
                yield where, "has no name, or one that is there twice", "name inputs and outputs when exporting"
            if each.data_type not in _SIZES:
                yield where, f"{each.data_type} is no element type of Triton", "convert it outside the model"
            yield from ((where, problem, _RECORD) for problem in _of_dims(each))
            if each.reshape == () and config.max_batch_size < 1:
                what = "is a single value, which Triton takes only of models with a batch axis"
                yield where, what, "export the model with one axis of length 1 there"
            if each.labels and side == "input":
                yield where, "has labels, which are for outputs", _RECORD
            if each.labels and each.dims and each.dims[-1] not in (-1, labels):
                yield where, f"{labels} labels for {each.dims[-1]} values", "give a name for every class"


def _of_dims(tensor: TensorConfig) -> Iterator[str]:
    for name, dims in (("dims", tensor.dims), ("reshape", tensor.reshape or ())):
        if odd := [dim for dim in dims if dim < 1 and dim != -1]:
            yield f"{name}: {odd[0]} is no length; -1 stands for any"
    if not tensor.dims:
        yield "dims: there are none; a single value is [1], reshaped"
    if tensor.reshape is not None:
        free = [dims.count(-1) for dims in (tensor.dims, tensor.reshape)]
        known = [math.prod(dim for dim in dims if dim != -1) for dims in (tensor.dims, tensor.reshape)]
        if free[0] != free[1] or known[0] != known[1]:
            yield f"reshape: {list(tensor.reshape)} holds another number of values than dims {list(tensor.dims)}"
    if tensor.shape_tensor and (tensor.data_type not in _OF_SHAPES or len(tensor.dims) > 1):
        yield "a shape tensor has one axis at most, and integers of 32 or 64 bits"


def _of_batching(config: ModelConfig) -> Iterator[tuple[str, str, str]]:
    if config.batching is None:
        return
    if config.max_batch_size < 1:
        yield "dynamic_batching", "the model has no batch axis: max_batch_size is 0", _SETTING
    for size in config.batching.preferred:
        if not 1 <= size <= config.max_batch_size:
            yield (
                "preferred_batch_size",
                f"{size} is not between 1 and max_batch_size {config.max_batch_size}",
                _SETTING,
            )
    if not 0 <= config.batching.delay < 1 << 63:
        yield "max_queue_delay_microseconds", f"{config.batching.delay} is no time", _SETTING


def _of_groups(config: ModelConfig) -> Iterator[tuple[str, str, str]]:
    if config.steps and config.groups:
        yield "instance_group", "an ensemble has none: its models have", _SETTING
    if not config.steps and not config.groups:
        yield "instance_group", "there is none", _SETTING
    for group in config.groups:
        if group.kind not in ("KIND_GPU", "KIND_CPU"):
            yield "instance_group", f"{group.kind!r} is no kind", _SETTING
        if group.count < 1:
            yield "instance_group", f"{group.count} instances", _SETTING
        if group.kind == "KIND_CPU" and (group.gpus or config.backend == "tensorrt"):
            yield "instance_group", "a plan runs on GPUs only, and an instance on the CPU has none", _SETTING
        if any(gpu < 0 for gpu in group.gpus) or len(set(group.gpus)) < len(group.gpus):
            yield "instance_group", f"gpus {list(group.gpus)}: one is negative, or there twice", _SETTING
        if group.profiles and config.backend != "tensorrt":
            yield "instance_group", "only a plan has optimization profiles", _SETTING
        if any(not 0 <= index < config.profiles for index in group.profiles):
            yield "instance_group", f"profile {list(group.profiles)}: the plan has {config.profiles}", _SETTING


def _of_files(config: ModelConfig, files: Mapping[str, int]) -> Iterator[tuple[str, str, str]]:
    for name in config.files:
        if "/" in name or name not in files:
            yield "default_model_filename", f"{name!r} is not in the version's folder", _RECORD
        elif not files[name]:
            yield "default_model_filename", f"{name!r} is empty", _RECORD
    for capability in config.of_capability:
        if not _CAPABILITY.fullmatch(capability):
            yield "cc_model_filenames", f"{capability!r} is no compute capability", "give one such as 8.9"
    for each in config.outputs:
        if each.labels and not files.get(each.labels):
            yield "label_filename", f"{each.labels!r} is not there, or empty", _RECORD


def _of_warmup(config: ModelConfig, files: Mapping[str, int]) -> Iterator[tuple[str, str, str]]:
    inputs = {each.name: each for each in config.inputs}
    names = [each.name for each in config.warmup]
    for each in config.warmup:
        where = f"model_warmup {each.name!r}"
        if not each.name or names.count(each.name) > 1:
            yield where, "has no name, or one that is there twice", _RECORD
        if not 1 <= each.batch <= max(config.max_batch_size, 1):
            yield where, f"batch_size {each.batch} is not between 1 and {max(config.max_batch_size, 1)}", _RECORD
        if {given.name for given in each.inputs} != set(inputs) or len(each.inputs) != len(inputs):
            yield where, "does not give every input once", _RECORD
            continue
        for given in each.inputs:
            tensor, size = inputs[given.name], files.get(f"{WARMUP}/{given.file}")
            fits = len(given.dims) == len(tensor.dims) and all(
                dim >= 1 and wanted in (-1, dim) for dim, wanted in zip(given.dims, tensor.dims, strict=True)
            )
            if given.data_type != tensor.data_type or not fits:
                yield (
                    where,
                    f"{given.name!r} is {given.data_type}{list(given.dims)}, which the input does not take",
                    _RECORD,
                )
            elif size is None or size < max(math.prod(given.dims) * _SIZES[given.data_type], 1):
                yield where, f"{given.file!r} is missing, or has too few bytes", _RECORD


def _of_steps(config: ModelConfig) -> Iterator[tuple[str, str, str]]:
    """Every tensor of an ensemble is an input of it or comes from one step before; every output comes from a step."""
    known = {each.name for each in config.inputs}
    for step in config.steps:
        where = f"ensemble_scheduling: step {step.model!r}"
        if not _NAME.fullmatch(step.model) or step.model == config.name:
            yield where, "is no name of another model", _RECORD
        if missing := sorted(set(step.inputs.values()) - known):
            yield where, f"{missing[0]!r} comes from no step before it", _RECORD
        if not step.inputs or not step.outputs:
            yield where, "has no inputs, or no outputs", _RECORD
        if twice := sorted(set(step.outputs.values()) & known):
            yield where, f"{twice[0]!r} is there already", _RECORD
        known |= set(step.outputs.values())
    if config.steps and (missing := sorted({each.name for each in config.outputs} - known)):
        yield "ensemble_scheduling", f"output {missing[0]!r} comes from no step", _RECORD
    if config.steps and (config.batching is not None or config.warmup):
        yield "ensemble_scheduling", "batching and warm-up are set in its models", _RECORD


#: Levels of onnxruntime (none, basic, extended) in the words of Triton's back-end, which is at the highest by default.
_TRITON_LEVELS = {0: 2, 1: -1, 2: 1}
_ALL_LEVELS = 3


def _lines(config: ModelConfig) -> Iterator[str]:
    yield f"name: {_text(config.name)}"
    yield f"backend: {_text(config.backend)}" if config.backend else 'platform: "ensemble"'
    yield f"max_batch_size: {config.max_batch_size}"
    for side, tensors in (("input", config.inputs), ("output", config.outputs)):
        for each in tensors:
            yield from _block(side, _of_tensor(each))
    for group in config.groups:
        parts = [f"kind: {group.kind}", f"count: {group.count}"]
        parts += [f"gpus: {_list(group.gpus)}"] if group.gpus else []
        parts += [f"profile: [{', '.join(_text(str(index)) for index in group.profiles)}]"] if group.profiles else []
        yield from _block("instance_group", parts)
    if config.file:
        yield f"default_model_filename: {_text(config.file)}"
    for capability, name in sorted(config.of_capability.items()):
        yield f"cc_model_filenames {{ key: {_text(capability)} value: {_text(name)} }}"
    if config.backend == "onnxruntime" and config.level < _ALL_LEVELS:
        yield f"optimization {{ graph {{ level: {_TRITON_LEVELS[config.level]} }} }}"
    if config.batching is not None:
        sizes, delay = config.batching.preferred, config.batching.delay
        parts = [f"preferred_batch_size: {_list(sizes)}"] if sizes else []
        parts += [f"max_queue_delay_microseconds: {delay}"] if delay else []
        yield from _block("dynamic_batching", parts)
    for warmup in config.warmup:
        parts = [f"name: {_text(warmup.name)}", f"batch_size: {warmup.batch}"]
        for given in warmup.inputs:
            value = f"data_type: {given.data_type} dims: {_list(given.dims)} input_data_file: {_text(given.file)}"
            parts.append(f"inputs {{ key: {_text(given.name)} value {{ {value} }} }}")
        yield from _block("model_warmup", parts)
    if config.steps:
        yield from _block("ensemble_scheduling", [line for step in config.steps for line in _of_step(step)])


def _of_tensor(each: TensorConfig) -> Iterator[str]:
    yield f"name: {_text(each.name)}"
    yield f"data_type: {each.data_type}"
    yield f"dims: {_list(each.dims)}"
    if each.reshape is not None:
        yield f"reshape {{ shape: {_list(each.reshape)} }}"
    if each.shape_tensor:
        yield "is_shape_tensor: true"
    if each.labels:
        yield f"label_filename: {_text(each.labels)}"


def _of_step(step: Step) -> Iterator[str]:
    parts = [f"model_name: {_text(step.model)}", "model_version: -1"]
    for side, names in (("input_map", step.inputs), ("output_map", step.outputs)):
        parts += [f"{side} {{ key: {_text(name)} value: {_text(tensor)} }}" for name, tensor in names.items()]
    yield from _block("step", parts)


def _block(name: str, lines: Iterator[str] | list[str]) -> Iterator[str]:
    yield f"{name} {{"
    yield from (f"  {line}" for line in lines)
    yield "}"


def _list(values: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _text(value: str) -> str:
    """A string of the text format: what is not plain ASCII as octal escapes of its UTF-8 bytes."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in value.encode()) + '"'
