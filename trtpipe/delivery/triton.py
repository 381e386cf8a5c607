"""A model repository of Triton Inference Server, from a package: a folder for each model.

Written from NVIDIA's "Model Repository" and "Model Configuration". A model with optimization profiles whose inputs and
outputs share one named batch axis is batched by the server; any other takes requests in its own shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.backends.optimization_level import safe_level
from trtpipe.config.formats import HALF_FORMATS
from trtpipe.config.target import find_target
from trtpipe.delivery.schema import to_text
from trtpipe.delivery.triton_config import (
    CONFIG,
    WARMUP,
    Batching,
    InstanceGroup,
    ModelConfig,
    Step,
    TensorConfig,
    Warmup,
    WarmupInput,
    check,
    data_type,
)
from trtpipe.engine.record import runtime_of
from trtpipe.errors import InputError
from trtpipe.reference.pytorch_outputs import load_reference
from trtpipe.reference.runnable import runnable_graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtpipe.config.triton import TritonSettings
    from trtpipe.delivery.assembly import Assembly
    from trtpipe.delivery.record import Model, Plan, Range, Tensor

PLAN, GRAPH, LABELS = "model.plan", "model.onnx", "labels.txt"
#: Of a model of unknown batch: the server's own default (--default-max-batch-size, documented with auto-completion).
_UNKNOWN_BATCH = 4
#: What the name of the model ends with that makes an input of files.
_STEP = "preprocess"
_TEMPLATE = Path(__file__).with_name("triton_preprocess.py")


@dataclass(frozen=True)
class Repository:
    """Models of a repository.

    Attributes:
        name: of the model that was packaged.
        models: all that were made, the one to send requests to last.
        files: path in the repository, with ``/`` -> where the content lies now.
        plan: path of a plan that is still to be built; empty: there is one.
        notes: what the server needs, and what was not tried.
    """

    name: str
    models: tuple[str, ...]
    files: Mapping[str, Path]
    plan: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Served:
    """What the back-end runs: files for the version's folder, and what of the configuration follows from them."""

    files: Mapping[str, Path]
    file: str
    of_capability: Mapping[str, str]
    profiles: tuple[Mapping[str, Range], ...]
    notes: tuple[str, ...] = ()
    level: int = 99


def repository(
    assembly: Assembly,
    settings: TritonSettings,
    folder: Path,
    *,
    profiles: tuple[Mapping[str, Range], ...] | None = None,
) -> Repository:
    """The models that serve a package.

    Args:
        folder: private; files are written there.
        profiles: the optimization profiles of a plan that is still to be built; ``None``: the package has one.

    Raises:
        InputError: Triton cannot serve this package, or would refuse the configuration.
    """
    model = assembly.model
    if settings.backend == "onnxruntime":
        served = _graph(assembly, folder)
    elif profiles is None:
        served = _plans(assembly)
    else:
        served = _Served({}, "", {}, profiles)
    shapes = _Shapes.of(model, served.profiles, settings)
    labels = _write_labels(model, folder) if any(each.classes for each in model.postprocessing) else {}
    warmup, values = _warmup(assembly, shapes, folder) if settings.warmup else ((), {})
    config = ModelConfig(
        name=settings.name or model.name,
        backend=settings.backend,
        inputs=shapes.tensors(model.inputs),
        outputs=tuple(_labeled(model, each) for each in shapes.tensors(model.outputs)),
        max_batch_size=shapes.batch,
        groups=(_group(settings, served.profiles),),
        batching=_batching(settings, shapes, served.profiles),
        file=served.file,
        of_capability=served.of_capability,
        warmup=warmup,
        profiles=max(len(served.profiles), 1),
        level=served.level,
    )
    awaited = profiles is not None and settings.backend == "tensorrt"
    sizes = {name: path.stat().st_size for name, path in {**served.files, **labels, **values}.items()}
    check(config, {**sizes, **({PLAN: 1} if awaited else {})}, len(model.classes))
    versioned = f"{config.name}/{settings.version}"
    files = {f"{config.name}/{name}": path for name, path in (labels | values).items()}
    files |= {f"{versioned}/{name}": path for name, path in served.files.items()}
    files |= _written(config, folder)
    models: tuple[str, ...] = (config.name,)
    if settings.preprocessing:
        added = _preprocessing(model, config, settings, folder)
        files, models = {**files, **added.files}, (*models, *added.models)
    notes = (*served.notes, *_notes(model, settings, config))
    return Repository(config.name, models, files, f"{versioned}/{PLAN}" if awaited else "", notes)


@dataclass(frozen=True)
class _Shapes:
    """How shapes of the model become those of requests; ``batch`` is 0 where they are the same.

    Attributes:
        values: inputs whose values decide shapes.
    """

    batch: int
    values: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: Model, profiles: Sequence[Mapping[str, Range]], settings: TritonSettings) -> _Shapes:
        fixed = {each.name for each in model.inputs if _is_fixed(each)}
        values = frozenset(name for profile in profiles for name in profile if name in fixed)
        largest = 0 if values or not _has_batch_axis(model) else _largest_batch(model, profiles)
        wanted = settings.max_batch_size
        if wanted is not None and wanted > largest and (profiles or not largest):
            why = f"its optimization profiles take {largest} at most" if largest else "it has no batch axis of any size"
            raise InputError(
                f"{model.name}: max_batch_size {wanted}: {why}",
                f"set max_batch_size = {largest}, or build with shapes for larger batches",
            )
        return cls(largest if wanted is None else wanted, values)

    def tensors(self, tensors: Sequence[Tensor]) -> tuple[TensorConfig, ...]:
        return tuple(map(self._tensor, tensors))

    def _tensor(self, tensor: Tensor) -> TensorConfig:
        kind = data_type(tensor.dtype)
        if kind is None or tensor.shape is None:
            what = f"is of {tensor.dtype}, a type" if kind is None else "is of unknown rank, and shapes are what"
            raise InputError(
                f"{tensor.name}: {what} that Triton does not have"
                if kind is None
                else f"{tensor.name}: {what} Triton has to be told",
                "convert it outside the model" if kind is None else "export the model with known ranks",
            )
        dims = tuple(dim if isinstance(dim, int) else -1 for dim in tensor.shape[1 if self.batch else 0 :])
        return TensorConfig(
            tensor.name, kind, dims or (1,), None if dims else (), shape_tensor=tensor.name in self.values
        )

    def of_one(self, value: np.ndarray) -> np.ndarray:
        """What one request without a batch axis has of an array with one."""
        return value[0] if self.batch else value


def _is_fixed(tensor: Tensor) -> bool:
    return tensor.shape is not None and all(isinstance(dim, int) for dim in tensor.shape)


def _has_batch_axis(model: Model) -> bool:
    """Whether the first axis of every input and output is one and the same free dimension."""
    first = {each.shape[0] if each.shape else None for each in (*model.inputs, *model.outputs)}
    return len(first) == 1 and isinstance(next(iter(first)), str)


def _largest_batch(model: Model, profiles: Sequence[Mapping[str, Range]]) -> int:
    """0 where no profile takes a batch of one, which is what a request may be."""
    if not profiles:
        return _UNKNOWN_BATCH
    ranges = [[profile[each.name] for each in model.inputs if each.name in profile] for profile in profiles]
    least = min(max(each.min[0] for each in profile) for profile in ranges)
    return max(min(each.max[0] for each in profile) for profile in ranges) if least <= 1 else 0


def _plans(assembly: Assembly) -> _Served:
    """The plans that Triton's TensorRT back-end loads; several are told apart by the GPU's compute capability."""
    model = assembly.model
    plans = [plan for plan in model.plans if plan.flavor == "tensorrt"]
    for plan in () if plans else model.plans:
        raise InputError(
            f"{plan.file}: a plan of {plan.flavor}, and Triton's TensorRT back-end loads none: "
            f"{runtime_of(plan.flavor) or 'it loads plans of tensorrt'}",
            "add --handover TARGET, and the plan is built on that machine; or serve the lowered graph with "
            "--triton-backend onnxruntime",
        )
    if not plans:
        raise InputError(f"{model.name}: has no plan", "add --handover TARGET, or --triton-backend onnxruntime")
    first = plans[0]
    for plan in plans:
        if model.is_encrypted(plan.file):
            raise InputError(f"{plan.file}: encrypted, and Triton cannot decrypt it", "package it without --encrypt-to")
        if (plan.version, plan.profiles) != (first.version, first.profiles):
            raise InputError(
                f"{plan.file} and {first.file}: of different TensorRT versions or optimization profiles, and one model "
                f"of Triton has one",
                "package builds of one version",
            )
    files = {PLAN: assembly.files[first.file]}
    files |= {plan.file: assembly.files[plan.file] for plan in plans[1:]}
    of_capability = {_capability(first): PLAN, **{_capability(plan): plan.file for plan in plans[1:]}}
    return _Served(files, PLAN, of_capability if len(plans) > 1 else {}, first.profiles, tuple(_needed(plans)))


def _capability(plan: Plan) -> str:
    return ".".join(map(str, find_target(plan.target).capability))


def _needed(plans: Sequence[Plan]) -> Iterator[str]:
    first = plans[0]
    if first.version_compatible:
        yield "start tritonserver with --backend-config=tensorrt,version-compatible=true"
    else:
        yield f"the plan needs a Triton release with TensorRT {first.version}"
    if first.plugins:
        names = ";".join(sorted(first.plugins))
        yield f"plug-in libraries are not in the repository: --backend-config=tensorrt,plugins={names}"


def _graph(assembly: Assembly, folder: Path) -> _Served:
    """The graph that the reference outputs are of: the lowered one, with the storage of 16-bit formats emulated."""
    model = assembly.model
    if model.graph is None:
        raise InputError(f"{model.name}: has no lowered graph", "make the package from a build that has one")
    profiles = next((plan.profiles for plan in model.plans if plan.profiles), ())
    names = (model.graph.file, *model.graph.data)
    source = folder / "graph"
    source.mkdir()
    for name in names:
        (source / name).symlink_to(assembly.files[name].absolute())
    half = next((form for form in HALF_FORMATS if form.name == model.graph.half), None)
    path, note = runnable_graph(source / model.graph.file, half, folder)
    data = path.with_name(f"{path.name}.data")
    files = {path.name: path} if path.name not in names else {name: assembly.files[name] for name in names}
    files |= {data.name: data} if path.name not in names and data.is_file() else {}
    said = f"{GRAPH.partition('.')[0]}: {note}, as for the reference outputs" if note else ""
    if not data.is_file():
        files = {GRAPH: next(iter(files.values()))}
    return _Served(files, next(iter(files)), {}, profiles, (said,) if said else (), safe_level(path))


def _group(settings: TritonSettings, profiles: Sequence[Mapping[str, Range]]) -> InstanceGroup:
    if settings.backend == "onnxruntime" and not settings.gpus:
        return InstanceGroup("KIND_CPU", settings.instances)
    several = tuple(range(len(profiles))) if len(profiles) > 1 and settings.backend == "tensorrt" else ()
    return InstanceGroup("KIND_GPU", settings.instances, settings.gpus, several)


def _batching(settings: TritonSettings, shapes: _Shapes, profiles: Sequence[Mapping[str, Range]]) -> Batching | None:
    """NVIDIA advises preferred sizes only where a model has several profiles, each for another batch."""
    delay = round((settings.max_queue_delay or 0.0) * 1e6)
    if not settings.dynamic_batching or not (shapes.batch or settings.preferred_batch_sizes or delay):
        return None
    sizes = set(settings.preferred_batch_sizes)
    if not sizes and len(profiles) > 1:
        sizes = {each.opt[0] for profile in profiles for each in profile.values() if 1 < each.opt[0] <= shapes.batch}
    return Batching(tuple(sorted(sizes)), delay)


def _write_labels(model: Model, folder: Path) -> dict[str, Path]:
    for name in model.classes:
        if not name.strip() or len(name.splitlines()) > 1:
            raise InputError(f"{model.name}: class {name!r}: a file of labels has one a line", "name it in one line")
    (folder / LABELS).write_text("".join(f"{name}\n" for name in model.classes), encoding="utf-8")
    return {LABELS: folder / LABELS} if model.classes else {}


def _labeled(model: Model, tensor: TensorConfig) -> TensorConfig:
    scores = any(each.output == tensor.name and each.classes for each in model.postprocessing)
    return replace(tensor, labels=LABELS if scores and model.classes else "")


def _warmup(assembly: Assembly, shapes: _Shapes, folder: Path) -> tuple[tuple[Warmup, ...], dict[str, Path]]:
    """A request of one for every reference input, and the first one again as the largest batch."""
    reference = assembly.model.reference
    if reference is None:
        return (), {}
    feeds, _ = load_reference(assembly.files[reference.file])
    (folder / WARMUP).mkdir()
    requests, files = [], {}
    for number, feed in enumerate(feeds):
        inputs = []
        for index, tensor in enumerate(assembly.model.inputs):
            value = shapes.of_one(feed[tensor.name])
            path = folder / WARMUP / f"{number}-{index}"
            path.write_bytes(_raw(value))
            files[f"{WARMUP}/{path.name}"] = path
            inputs.append(WarmupInput(tensor.name, data_type(tensor.dtype) or "", value.shape or (1,), path.name))
        requests.append(Warmup(f"reference-{number}", 1, tuple(inputs)))
    if shapes.batch > 1 and requests:
        requests.append(Warmup("largest-batch", shapes.batch, requests[0].inputs))
    return tuple(requests), files


def _raw(value: np.ndarray) -> bytes:
    """Values as Triton's raw tensors have them: little endian; texts with their length in 32 bits before each."""
    if value.dtype.kind in "OUS":
        texts = [each if isinstance(each, bytes) else str(each).encode() for each in value.ravel().tolist()]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False)).tobytes()


def _written(config: ModelConfig, folder: Path) -> dict[str, Path]:
    path = folder / f"{config.name}.{CONFIG}"
    path.write_text(config.to_text(), encoding="utf-8")
    return {f"{config.name}/{CONFIG}": path}


def _preprocessing(model: Model, config: ModelConfig, settings: TritonSettings, folder: Path) -> Repository:
    """A Python model that makes one input of files, and an ensemble of both."""
    if len(model.preprocessing) != 1:
        raise InputError(
            f"{model.name}: preprocessing: the package says of {len(model.preprocessing) or 'no'} inputs how files "
            f"become them, and an ensemble needs it of one",
            "say it with [inputs.NAME.image], or audio, in the file of --describe, or leave preprocessing out",
        )
    (wanted,) = model.preprocessing
    made = next(each for each in config.inputs if each.name == wanted.input)
    others = tuple(each for each in config.inputs if each.name != wanted.input)
    name = wanted.takes.upper()
    file = TensorConfig(
        name, "TYPE_STRING", (1,) if config.max_batch_size else made.dims[:1]
    )  # one whole file a sample
    step = ModelConfig(
        name=f"{config.name}_{_STEP}",
        backend="python",
        inputs=(file,),
        outputs=(replace(made, shape_tensor=False, labels=""),),
        max_batch_size=config.max_batch_size,
        groups=(InstanceGroup("KIND_CPU", settings.instances),),
    )
    tensors = {each.name: each.name for each in (*config.inputs, *config.outputs)}
    ensemble = ModelConfig(
        name=f"{config.name}_{wanted.takes}s",
        backend="",
        inputs=(file, *others),
        outputs=config.outputs,
        max_batch_size=config.max_batch_size,
        steps=(
            Step(step.name, {name: name}, {made.name: made.name}),
            Step(config.name, {each.name: tensors[each.name] for each in config.inputs},
                 {each.name: tensors[each.name] for each in config.outputs}),
        ),
    )  # fmt: skip
    transform = folder / "transform.json"
    transform.write_text(to_text(wanted), encoding="utf-8")
    labels = {name: 1 for name in {each.labels for each in ensemble.outputs} if name}
    check(step, {"model.py": 1})
    check(ensemble, labels, len(model.classes))
    version = f"{step.name}/{settings.version}"
    files = {f"{version}/model.py": _TEMPLATE, f"{version}/transform.json": transform}
    files |= {f"{ensemble.name}/{name}": folder / name for name in labels}
    empty = folder / "empty"
    empty.write_text("An ensemble has no files of its own.\n", encoding="utf-8")
    files[f"{ensemble.name}/{settings.version}/README"] = empty
    return Repository(ensemble.name, (step.name, ensemble.name), {
        **files, **_written(step, folder), **_written(ensemble, folder)
    })  # fmt: skip


def _notes(model: Model, settings: TritonSettings, config: ModelConfig) -> Iterator[str]:
    if settings.warmup and not config.warmup:
        yield "no warm-up: the package has no reference inputs"
    if settings.preprocessing:
        needed = " and pillow" if any(each.takes == "image" for each in model.preprocessing) else ""
        yield f"preprocessing runs in Triton's Python back-end: install trtpipe{needed} where its server runs"
    if model.verdict.exit_code:
        yield "the build failed a gate, and was packaged with --allow-failed"
    yield "not run: the configuration was checked, but no server has loaded the model"
