"""The job that a request adds up to: what is in memory is held for as long as the call lasts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from inspect import signature as inspect_signature
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from trtpipe.api.arguments import DEFAULTS, BuildArguments, takes
from trtpipe.backends.base import load_backend
from trtpipe.backends.choice import choose_backend, default_targets
from trtpipe.config.job import Job, Role
from trtpipe.config.paths import path_of
from trtpipe.config.preprocessing import FoldedPreprocessing
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe, DataSettings, EvaluationSettings
from trtpipe.config.settings import Settings
from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource, Source, parse_source
from trtpipe.config.target import find_target
from trtpipe.data.dataset import check_source
from trtpipe.errors import InputError
from trtpipe.progress import NullProgress, Progress, step

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from typing_extensions import Unpack

    from trtpipe.api.arguments import DataLike, ShapesLike, SourceLike
    from trtpipe.config.formats import Precision
    from trtpipe.config.job import Feeds
    from trtpipe.config.paths import PathLike
    from trtpipe.config.target import Target

D = TypeVar("D", bound=DataSettings)

_A_RECORD = "give a trtpipe.{}, or the path of a TOML file"

#: The argument that gives each role's data. It stands in the recipe for data that the caller holds.
ARGUMENTS: Mapping[Role, str] = MappingProxyType({"calibration-data": "calib_data", "evaluation-data": "eval_data"})


@takes(BuildArguments)
def make_job(source: SourceLike | None = None, *, engines: bool = True, **request: Unpack[BuildArguments]) -> Job:
    """Resolve a request once, for several calls: ``build``, ``dry_run``, ``export``, ``sensitivity`` and ``tune`` take
    a job in place of a source.

    Args:
        source: ``model.onnx``, ``model.pt2``, ``path/file.py:factory``, ``package.module:factory``, or an
            ``nn.Module``, alone, as ``(module, example_inputs)`` or as ``(module, args, kwargs)``.
        engines: whether engines will be built or run; without, no back-end has to be installed.
        calib_data: calibration data: a path or ``file.py:function``; overrides the recipe's.
        eval_data: evaluation data, likewise.
        progress: gets notes on which back-end and targets were chosen, and why.

    Raises:
        InputError: the source is none of these (a ``ModelProto`` is taken by the functions themselves, and so is data
            in memory), or an argument is wrong; the message names it.
        RecipeError: the profile or the recipe has a mistake.
        HostError: the back-end asked for is not installed.

    Example:
        >>> job = trtpipe.make_job("model.onnx", precision="fp16", targets=["sm89"])
        >>> trtpipe.dry_run(job)[0].state
        'to build'
        >>> trtpipe.build(job, "fp16").verdict.outcome  # without data, outputs are compared on random inputs
        'not judged'
    """
    profile, recipe = profile_from(request), recipe_from(request)
    found = _source(source, request.get("example_inputs"))
    if isinstance(found, FactorySource) and recipe.data.source:
        found = replace(found, data=recipe.data)
    evaluation = recipe.evaluation
    profile.accuracy.of(None if evaluation is None else evaluation.metric)  # before the long work, not after it
    folded = None if found is None else FoldedPreprocessing.of(profile, recipe)  # later graphs have it in them
    backend, chosen = chosen_engines(profile, request.get("progress") or NullProgress()) if engines else ("null", ())
    if folded is not None and engines and load_backend(backend).consumes == "program":
        raise InputError(
            f"fold_preprocessing: {backend} compiles PyTorch's program, and there is no graph to write into",
            "choose --backend tensorrt or tensorrt-rtx",
        )
    return Job(
        source=found,
        profile=profile,
        recipe=recipe,
        backend=backend,
        targets=chosen,
        settings=request.get("settings") or Settings.from_environment(),
        simplify=request.get("simplify", True),
        allow_random=request.get("allow_random", False),
    )


@contextmanager
def requested(
    source: SourceLike | None = None,
    *,
    engines: bool = True,
    built: Path | None = None,
    usual: Precision | None = None,
    **request: Unpack[BuildArguments],
) -> Iterator[Job]:
    """The job of one call, as ``make_job`` resolves it; what is in memory is held for as long as the call lasts.

    Args:
        built: a lowered graph or an engine that tells precision, back-end and target, where nothing else does.
        usual: the precision where nothing tells it.

    Raises:
        InputError: as ``make_job``; or a job comes with arguments that it has already.
    """
    if isinstance(source, Job):
        if any(value is not DEFAULTS.get(name) for name, value in request.items() if name != "progress"):
            raise InputError(
                "a job has its profile, recipe, data and settings already",
                "give these arguments to make_job, or give the source itself",
            )
        yield source
        return
    with ExitStack() as stack:
        feeds: dict[Role, Feeds] = {}
        recipe = recipe_from({"recipe": request.get("recipe")})
        profile = profile_from(request)
        recorded = {} if built is None else _built_as(built)
        if usual is not None:
            recorded.setdefault("precision", usual)
        changes = {name: recorded[name] for name in recorded if name not in profile.model_fields_set}
        calib_data, eval_data = request.get("calib_data"), request.get("eval_data")
        progress = request.get("progress") or NullProgress()
        request["profile"], request["recipe"] = _changed(profile, changes), recipe
        request["calib_data"] = _held_data("calibration-data", calib_data, recipe.data, feeds, stack, progress)
        second = recipe.evaluation or recipe.data
        request["eval_data"] = _held_data("evaluation-data", eval_data, second, feeds, stack, progress)
        yield replace(make_job(_held_model(source, stack), engines=engines, **request), feeds=feeds)


def _built_as(built: Path) -> dict[str, object]:
    """Fields of the profile that a finished file settles."""
    from trtpipe.api.inspection import inspect  # it knows every file that trtpipe writes, of which builds need few

    return inspect(built).built_as()


def profile_from(request: BuildArguments) -> DeploymentProfile:
    """The profile in force: the arguments that are given, over the record or file.

    Raises:
        InputError: an argument is wrong; the message names the field.
        RecipeError: the file is wrong.
    """
    found = request.get("profile")
    if found is None:
        found = DeploymentProfile()
    elif not isinstance(found, DeploymentProfile):
        found = DeploymentProfile.load(path_of(found, "profile", _A_RECORD.format("DeploymentProfile")))
    changes: dict[str, object] = {}
    if (precision := request.get("precision")) is not None:
        changes["precision"] = precision
    if (targets := request.get("targets")) is not None:
        changes["targets"] = _several("targets", targets)
    if (keep := request.get("keep")) is not None:
        changes["keep"] = _several("keep", keep)
    if (shapes := request.get("shapes")) is not None:
        changes |= _shapes(shapes)
    return _changed(found, changes)


def recipe_from(request: BuildArguments) -> CalibrationRecipe:
    """The recipe in force: the data that is given, over the record or file.

    Raises:
        InputError: the data is not named, but given.
        RecipeError: the file is wrong.
    """
    found = request.get("recipe")
    if found is None:
        found = CalibrationRecipe()
    elif not isinstance(found, CalibrationRecipe):
        found = CalibrationRecipe.load(path_of(found, "recipe", _A_RECORD.format("CalibrationRecipe")))
    if (data := request.get("calib_data")) is not None:
        found = found.model_copy(update={"data": _at(found.data, data, "calib_data")})
    if (data := request.get("eval_data")) is not None:
        settings = found.evaluation or EvaluationSettings()
        found = found.model_copy(update={"evaluation": _at(settings, data, "eval_data")})
    return found


def refuse_missing(job: Job) -> None:
    """Complain before the long work that the model's file, or data that a path names, is not there.

    Raises:
        InputError: one is not; the message names it.
    """
    if isinstance(job.source, OnnxSource) and not job.source.path.exists():
        raise InputError(f"{job.source.path}: no such file", "check the path")
    from trtpipe.accuracy.metrics import check_floors
    from trtpipe.isolation.worker import user_limits
    from trtpipe.pipeline.run_state import check_classes

    held: dict[Role, DataSettings | None]
    held = {"calibration-data": job.recipe.data, "evaluation-data": job.recipe.evaluation}
    for role, data in held.items():
        if data is not None and data.source and role not in job.feeds:
            check_source(data.source)
    check_classes(job)
    check_floors(job.recipe.evaluation, job.profile.accuracy.min_metric, user_limits(job.settings))


def refuse_without_data(job: Job, option: str = "--calib-data") -> None:
    """Complain before the long work that there is nothing to calibrate on, not after it.

    Args:
        option: gives data on the command line.
    """
    if job.profile.precision.calibrated and not job.recipe.data.source and not job.allow_random:
        raise InputError(
            f"{_spoken(job.profile.precision)} needs calibration data, and none was given",
            f"add {option} (a folder of images or WAV files, an .npz, or file.py:function) or --calib RECIPE.toml",
        )


def _spoken(precision: Precision) -> str:
    """A precision with its formats, where it joins several: ``best (int8 with fp16)``."""
    formats = [form.name for form in precision.formats]
    return f"{precision} ({' with '.join(formats)})" if len(formats) > 1 else str(precision)


def chosen_engines(
    profile: DeploymentProfile, listener: Progress, chosen_by: str = "--target"
) -> tuple[str, tuple[Target, ...]]:
    """The back-end and the targets, those the user left open with the reason for the choice.

    Args:
        chosen_by: where the user may choose targets, for the note.
    """
    backend, why = choose_backend(profile.backend)
    if profile.backend == "auto":
        listener.note(f"backend {backend}: {why}")
    targets = tuple(find_target(name) for name in dict.fromkeys(profile.targets))
    if not targets:
        targets, why = default_targets(backend)
        listener.note(f"targets {', '.join(map(str, targets))}: {why}; {chosen_by} narrows it")
    return backend, targets


def _source(source: SourceLike | None, examples: Sequence[object] | Mapping[str, object] | None) -> Source | None:
    if source is None:
        return None
    if isinstance(source, (str, os.PathLike)):
        if examples is not None:
            raise InputError("example_inputs: they belong to a module in memory", "have the factory return them")
        return parse_source(str(path_of(source, "source")))
    if isinstance(source, tuple) and len(source) in (2, 3) and examples is None:
        source, examples, *keywords = cast("tuple[object, Sequence[object], Mapping[str, object]]", source)
        examples = (*examples, *keywords) if any(keywords) else examples
    if isinstance(source, type):
        raise InputError(
            f"source: {source.__name__} is a class, not a model", f"make an instance of it: {source.__name__}(...)"
        )
    if not callable(source):
        kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__name__}"
        raise InputError(
            f"source: a {kind} is no model",
            "give a path, a factory or an nn.Module with example_inputs; an onnx.ModelProto goes to build and export "
            "themselves, or into a file",
        )
    if examples is None:
        raise InputError(
            f"example_inputs: {type(source).__name__} needs them to be exported",
            "add example_inputs=(tensor, ...), one tensor for each argument of forward",
        )
    if isinstance(examples, Mapping):
        known = inspect_signature(getattr(source, "forward", None) or source).parameters
        unknown = [name for name in examples if name not in known]
        if unknown and not any(each.kind == each.VAR_KEYWORD for each in known.values()):
            raise InputError(
                f"example_inputs: {type(source).__name__}.forward has no argument {unknown[0]!r}",
                f"its arguments: {', '.join(known)}; give a dict that is itself an argument in a tuple",
            )
        return ModuleSource(source, (examples,))
    if isinstance(examples, str):
        raise InputError("example_inputs: a str is no tensor", "give one tensor for each argument of forward")
    single = hasattr(examples, "__array__") or not isinstance(examples, Iterable)
    return ModuleSource(source, (examples,) if single else tuple(examples))


def _held_model(source: SourceLike | None, stack: ExitStack) -> SourceLike | None:
    """A graph in memory as a file that lasts as long as ``stack``; any other source as it is."""
    if isinstance(source, (str, os.PathLike, tuple)) or not hasattr(source, "SerializeToString"):
        return source
    import onnx
    from onnx.external_data_helper import uses_external_data

    if not isinstance(source, onnx.ModelProto):
        return source
    if any(uses_external_data(tensor) for tensor in source.graph.initializer):
        raise InputError(
            "source: weights of the ModelProto are in files that were not loaded",
            "load them with onnx.load(path), or give the path",
        )
    path = Path(stack.enter_context(TemporaryDirectory(prefix="trtpipe-")), "model.onnx")
    if source.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        onnx.save(source, path)
    else:
        copy = onnx.ModelProto()
        copy.CopyFrom(source)  # onnx takes the weights out of the model that it writes
        onnx.save(copy, path, save_as_external_data=True, location="model.data")
    return path


def _held_data(
    role: Role,
    data: DataLike | None,
    settings: DataSettings,
    feeds: dict[Role, Feeds],
    stack: ExitStack,
    progress: Progress,
) -> PathLike | None:
    """Where the data is; for feeds that the caller holds, which go into ``feeds``, the name of the argument.

    Feeds are read more than once, and have to be the same each time: what is no sequence is written to disk first.
    """
    argument = ARGUMENTS[role]
    if data is None or isinstance(data, (str, os.PathLike)):
        return data
    if isinstance(data, (Mapping, bytes, bytearray)):
        raise InputError(f"{argument}: one {type(data).__name__} is no set of samples", "give a list of feeds")
    if isinstance(data, Sequence) or hasattr(data, "__array__"):
        held = cast("Iterable[object]", data)
        feeds[role] = lambda: map(_item, held)
    elif isinstance(data, Iterable):
        most = None if settings.samples is None else settings.samples + settings.skip_bad_samples
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="trtpipe-")))
        with step(progress, f"read {argument}"):
            feeds[role] = _spooled(
                argument, islice(data, most), folder, lambda count: progress.advance("", count, most)
            )
    elif callable(data):
        feeds[role] = lambda: map(_item, data())
    else:
        raise InputError(
            f"{argument}: a {type(data).__name__} is not data",
            "give a path, file.py:function, or an iterable of feeds (dicts of input name -> array)",
        )
    return argument


def _item(item: object) -> object:
    """A sample without the list around a single array, as a DataLoader over a TensorDataset gives it."""
    return item[0] if isinstance(item, (tuple, list)) and len(item) == 1 and hasattr(item[0], "__array__") else item


def _spooled(argument: str, items: Iterable[object], folder: Path, tell: Callable[[int], None]) -> Feeds:
    """Write every item to ``folder``, one after the other, tell how many there are, and give what reads them back."""
    import numpy as np

    from trtpipe.data.usercode import UserFunction

    count = 0
    for item in UserFunction(argument, argument, Path.cwd(), lambda: map(_item, items)).items():
        feed, labels = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        named = {f"feed/{name}": value for name, value in feed.items()} if isinstance(feed, Mapping) else {"": feed}
        if labels is not None:
            named["labels"] = labels
        arrays = {}
        for name, value in named.items():
            try:
                array = np.asarray(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise _no_arrays(argument, count, str(error)) from error
            if array.dtype.hasobject:
                raise _no_arrays(argument, count, f"{type(value).__name__}")
            if array.dtype.isbuiltin == 2:  # bfloat16 and the like, which numpy's files do not know
                arrays[f"{array.dtype.name}/{name}"] = array.view(f"u{array.itemsize}")
            else:
                arrays[f"/{name}"] = array
        np.savez(folder / f"{count:08}.npz", **arrays)  # type: ignore[arg-type]
        count += 1
        tell(count)

    def read() -> Iterator[object]:
        for index in range(count):
            found = {}
            with np.load(folder / f"{index:08}.npz", allow_pickle=False) as file:
                for key in file.files:
                    dtype, _, name = key.partition("/")
                    found[name] = file[key].view(np.dtype(dtype)) if dtype else file[key]
            labels = found.pop("labels", None)
            feed = found[""] if "" in found else {name.removeprefix("feed/"): found[name] for name in found}
            yield feed if labels is None else (feed, labels)

    return read


def _no_arrays(argument: str, index: int, why: str) -> InputError:
    return InputError(f"{argument}: sample {index}: not arrays of numbers: {why}", "yield numpy arrays")


def _several(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """A single text is one value, not its letters."""
    found = (values,) if isinstance(values, str) else tuple(values) if isinstance(values, Iterable) else (values,)
    if not all(isinstance(value, str) for value in found):
        raise InputError(f"{name}: {values!r} is no list of texts", f'give a list such as {name}=["..."]')
    return found


def _shapes(shapes: ShapesLike) -> dict[str, object]:
    if shapes == "auto":
        return {"shapes": (), "auto_shapes": True}
    profiles = (shapes,) if isinstance(shapes, Mapping) else shapes
    if not isinstance(profiles, Sequence) or not all(isinstance(one, Mapping) for one in profiles):
        raise InputError(f"shapes: {shapes!r} is not understood", 'give "auto", or {"x": (1, 3, 224, 224)}')
    return {"shapes": tuple({name: _range(each) for name, each in one.items()} for one in profiles)}


def _range(given: object) -> object:
    """A fixed shape as a range of one."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        return {"min": tuple(given), "opt": tuple(given), "max": tuple(given)}
    return given


def _changed(profile: DeploymentProfile, changes: Mapping[str, object]) -> DeploymentProfile:
    if not changes:
        return profile
    try:
        fields = {**profile.model_dump(exclude_unset=True), **changes}
        return TypeAdapter(DeploymentProfile).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][:1] == ("shapes",) and len(first["loc"]) > 2:
            raise _wrong_shape(first) from error
        field = ".".join(map(str, first["loc"])) or "profile"
        message = first["msg"].removeprefix("Value error, ")
        remedy = f"correct the argument {field.partition('.')[0]} (it is {first['input']!r:.80})"
        raise InputError(f"{field}: {message}", remedy) from error


def _wrong_shape(found: ErrorDetails) -> InputError:
    """What is wrong with the argument ``shapes``; its values lie at (number, input, min or opt or max, axis)."""
    _, number, name, *inside = found["loc"]
    given, message = f"{found['input']!r:.80}", found["msg"].removeprefix("Value error, ")
    if len(inside) == 2:
        message = f"dimension {inside[1]}: {given} is no size: a size is a whole number from 0 to {(1 << 31) - 1}"
    elif found["type"] == "missing":
        message = f"lacks {inside[0]}: {given}"
    elif found["type"].endswith("_type"):
        message = f"{given} is no shape"
    else:
        message = ": ".join(map(str, (*inside, message)))
    place = f"optimization profile {number}, input {name}" if number else f"input {name}"
    return InputError(
        f"shapes: {place}: {message}",
        f'give its sizes, {{"{name}": (1, ...)}}, or for a dynamic input '
        f'{{"{name}": {{"min": (1, ...), "opt": (8, ...), "max": (32, ...)}}}}',
    )


def _at(data: D, source: DataLike, argument: str) -> D:
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            f"{argument}: a job names its data, and a {type(source).__name__} has no name",
            "give it to the function that needs it, with the source in place of the job",
        )
    return data.model_copy(update={"source": os.fspath(source)})
