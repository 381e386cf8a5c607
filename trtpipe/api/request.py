"""What the public functions take, and the job that it adds up to.

Paths are ``str | os.PathLike``. A model is a file, a factory, a ``torch.nn.Module`` or an ``onnx.ModelProto``; data is
a file, a folder, a function's name or an iterable of feeds. Profiles and recipes are records or TOML files; the
arguments that most builds need override them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, cast

from pydantic import ValidationError

from trtpipe.api.paths import PathLike, path_of
from trtpipe.backends.choice import choose_backend, default_targets
from trtpipe.config.job import Job
from trtpipe.config.profile import DeploymentProfile, Precision
from trtpipe.config.recipe import CalibrationRecipe, DataSettings, EvaluationSettings
from trtpipe.config.settings import Settings
from trtpipe.config.source import ModuleSource, Source, parse_source
from trtpipe.config.target import find_target
from trtpipe.errors import InputError
from trtpipe.progress import NullProgress, Progress

if TYPE_CHECKING:
    from trtpipe.config.job import Feeds, Role
    from trtpipe.config.target import Target

D = TypeVar("D", bound=DataSettings)

#: A path, ``file.py:factory``, ``package.module:factory``, an ``nn.Module`` (alone or as ``(module, example inputs)``),
#: an ``onnx.ModelProto``, or a job from ``make_job``.
SourceLike: TypeAlias = "PathLike | tuple[object, Sequence[object]] | Job | object"
#: A path, ``file.py:function``, or feeds: an iterable (or a function that returns one) of what such a function yields.
DataLike: TypeAlias = "PathLike | Iterable[object] | Callable[[], Iterable[object]]"
ProfileLike: TypeAlias = "DeploymentProfile | PathLike"
RecipeLike: TypeAlias = "CalibrationRecipe | PathLike"
#: ``"auto"``; input -> shape, or input -> ``{"min": shape, "opt": shape, "max": shape}``; or several such mappings.
ShapesLike: TypeAlias = "Literal['auto'] | Mapping[str, object] | Sequence[Mapping[str, object]]"

#: Stands in a recipe for data that the caller holds.
HELD = "feeds of the caller"


def make_job(
    source: SourceLike | None = None,
    *,
    example_inputs: Sequence[object] | None = None,
    precision: Precision | None = None,
    targets: Sequence[str] | None = None,
    shapes: ShapesLike | None = None,
    keep: Sequence[str] | None = None,
    calib_data: PathLike | None = None,
    eval_data: PathLike | None = None,
    profile: ProfileLike | None = None,
    recipe: RecipeLike | None = None,
    settings: Settings | None = None,
    simplify: bool = True,
    allow_random: bool = False,
    progress: Progress | None = None,
    engines: bool = True,
) -> Job:
    """Resolve a request once, for several calls: ``build``, ``dry_run``, ``export``, ``sensitivity`` and ``tune`` take
    a job in place of a source.

    Args:
        source: ``model.onnx``, ``model.pt2``, ``path/file.py:factory``, ``package.module:factory``, or an
            ``nn.Module``, alone or as ``(module, example_inputs)``.
        example_inputs: positional example inputs of an ``nn.Module``.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``fp8`` or ``best``; overrides the profile's.
        targets: GPUs to build for, such as ``["sm89"]``; overrides the profile's.
        shapes: shapes of dynamic inputs; overrides the profile's. ``"auto"`` infers them from the calibration data.
        keep: shell patterns of node names to keep in higher precision; overrides the profile's.
        calib_data: calibration data; overrides the recipe's.
        eval_data: evaluation data; overrides the recipe's.
        profile: what to build: a record or a TOML file (default: fp32, for every target the back-end has by default).
        recipe: which data, and how ranges are found: a record or a TOML file (default: no data).
        settings: cache folder and limits (default: from the environment).
        simplify: whether onnxsim may rewrite the graph.
        allow_random: whether calibration may use seeded random data where none is given.
        progress: told which back-end and targets were chosen and why.
        engines: whether engines will be built or run; without, no back-end has to be installed.

    Raises:
        InputError: the source is none of these (a ``ModelProto`` is taken by the functions themselves), or a target,
            shape or pattern is wrong.
        RecipeError: the profile or the recipe has a mistake.
        HostError: the back-end asked for is not installed.

    Example:
        >>> job = trtpipe.make_job("model.onnx", precision="fp16", targets=["sm89"])
        >>> for step in trtpipe.dry_run(job):
        ...     print(step.label, step.state)
    """
    listener = progress or NullProgress()
    found_profile = profile_from(profile, precision=precision, targets=targets, shapes=shapes, keep=keep)
    backend, chosen = _engines(found_profile, listener) if engines else ("null", ())
    return Job(
        source=_source(source, example_inputs),
        profile=found_profile,
        recipe=recipe_from(recipe, calib_data=calib_data, eval_data=eval_data),
        backend=backend,
        targets=chosen,
        settings=settings or Settings.from_environment(),
        simplify=simplify,
        allow_random=allow_random,
    )


@contextmanager
def requested(
    source: SourceLike | None = None,
    *,
    example_inputs: Sequence[object] | None = None,
    precision: Precision | None = None,
    targets: Sequence[str] | None = None,
    shapes: ShapesLike | None = None,
    keep: Sequence[str] | None = None,
    calib_data: DataLike | None = None,
    eval_data: DataLike | None = None,
    profile: ProfileLike | None = None,
    recipe: RecipeLike | None = None,
    settings: Settings | None = None,
    simplify: bool = True,
    allow_random: bool = False,
    progress: Progress | None = None,
    engines: bool = True,
) -> Iterator[Job]:
    """The job of one call, as ``make_job`` resolves it; what lies in memory is held for as long as the call lasts.

    Raises:
        InputError: as ``make_job``; or a job comes with arguments that it has already.
    """
    if isinstance(source, Job):
        given = (example_inputs, precision, targets, shapes, keep, calib_data, eval_data, profile, recipe, settings)
        if any(value is not None for value in given):
            raise InputError(
                "a job has its profile, recipe, data and settings already",
                "give these arguments to make_job, or give the source itself",
            )
        yield source
        return
    with ExitStack() as stack:
        feeds: dict[Role, Feeds] = {}
        job = make_job(
            _held_model(source, stack),
            example_inputs=example_inputs,
            precision=precision,
            targets=targets,
            shapes=shapes,
            keep=keep,
            calib_data=_held_data("calibration-data", calib_data, feeds, stack),
            eval_data=_held_data("evaluation-data", eval_data, feeds, stack),
            profile=profile,
            recipe=recipe,
            settings=settings,
            simplify=simplify,
            allow_random=allow_random,
            progress=progress,
            engines=engines,
        )
        yield replace(job, feeds=feeds)


def profile_from(
    profile: ProfileLike | None,
    *,
    precision: Precision | None = None,
    targets: Sequence[str] | None = None,
    shapes: ShapesLike | None = None,
    keep: Sequence[str] | None = None,
) -> DeploymentProfile:
    """The profile in force: the arguments that are given, over the record or file.

    Raises:
        InputError: an argument is wrong; the message names the field.
        RecipeError: the file is wrong.
    """
    found = DeploymentProfile() if profile is None else profile
    if not isinstance(found, DeploymentProfile):
        found = DeploymentProfile.load(path_of(found))
    changes: dict[str, object] = {}
    if precision is not None:
        changes["precision"] = precision
    if targets is not None:
        changes["targets"] = _several("targets", targets)
    if keep is not None:
        changes["keep"] = _several("keep", keep)
    if shapes is not None:
        changes |= _shapes(shapes)
    return _changed(found, changes)


def recipe_from(
    recipe: RecipeLike | None, *, calib_data: PathLike | None = None, eval_data: PathLike | None = None
) -> CalibrationRecipe:
    """The recipe in force: the data that is given, over the record or file.

    Raises:
        RecipeError: the file is wrong.
    """
    found = CalibrationRecipe() if recipe is None else recipe
    if not isinstance(found, CalibrationRecipe):
        found = CalibrationRecipe.load(path_of(found))
    if calib_data is not None:
        found = found.model_copy(update={"data": _at(found.data, calib_data)})
    if eval_data is not None:
        found = found.model_copy(update={"evaluation": _at(found.evaluation or EvaluationSettings(), eval_data)})
    return found


def _engines(profile: DeploymentProfile, listener: Progress) -> tuple[str, tuple[Target, ...]]:
    """The back-end and the targets, those the user left open with the reason for the choice."""
    backend, why = choose_backend(profile.backend)
    if profile.backend == "auto":
        listener.note(f"backend {backend}: {why}")
    targets = tuple(find_target(name) for name in dict.fromkeys(profile.targets))
    if not targets:
        targets, why = default_targets(backend)
        listener.note(f"targets {', '.join(map(str, targets))}: {why}")
    return backend, targets


def _source(source: SourceLike | None, examples: Sequence[object] | None) -> Source | None:
    if source is None:
        return None
    if isinstance(source, (str, os.PathLike)):
        if examples is not None:
            raise InputError("example_inputs belong to a module in memory", "have the factory return them")
        return parse_source(os.fspath(source))
    if isinstance(source, tuple) and len(source) == 2 and examples is None:
        module, examples = cast("tuple[object, Sequence[object]]", source)
        return ModuleSource(module, tuple(examples))
    if callable(source):
        if examples is None:
            raise InputError(
                f"{type(source).__name__} needs example inputs to be exported",
                "add example_inputs=(tensor, ...), one tensor for each argument of forward",
            )
        return ModuleSource(source, tuple(examples))
    kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__name__}"
    raise InputError(
        f"{kind} is not a source that a job can be made of",
        "give a path, a factory or an nn.Module; an onnx.ModelProto goes to build or export itself",
    )


def _held_model(source: SourceLike | None, stack: ExitStack) -> SourceLike | None:
    """A graph in memory as a file that lasts as long as ``stack``; any other source as it is."""
    if isinstance(source, (str, os.PathLike, tuple)) or not hasattr(source, "SerializeToString"):
        return source
    import onnx

    if not isinstance(source, onnx.ModelProto):
        return source
    path = Path(stack.enter_context(TemporaryDirectory(prefix="trtpipe-")), "model.onnx")
    big = source.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF
    onnx.save(source, path, save_as_external_data=big, location="model.data" if big else None)
    return path


def _held_data(role: Role, data: DataLike | None, feeds: dict[Role, Feeds], stack: ExitStack) -> PathLike | None:
    """Where the data lies, or the words for feeds of the caller, which go into ``feeds``."""
    if data is None or isinstance(data, (str, os.PathLike)):
        return data
    if callable(data):
        feeds[role] = data
    elif isinstance(data, Iterator):  # it is walked through more than once: keep the feeds on disk
        feeds[role] = _spooled(data, Path(stack.enter_context(TemporaryDirectory(prefix="trtpipe-"))))
    elif isinstance(data, Iterable):
        feeds[role] = lambda: data
    else:
        raise InputError(
            f"{role.partition('-')[0]} data is a {type(data).__name__}",
            "give a path, file.py:function, or an iterable of feeds (dicts of input name -> array)",
        )
    return HELD


def _spooled(items: Iterator[object], folder: Path) -> Feeds:
    """Write every item to ``folder``, one after the other, and give what reads them back."""
    import numpy as np

    count = 0
    for count, item in enumerate(items, 1):
        feed, labels = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        arrays = feed if isinstance(feed, Mapping) else {"": feed}
        named = {f"feed/{name}": np.asarray(value) for name, value in arrays.items()}
        if labels is not None:
            named["labels"] = np.asarray(labels)
        if unfit := next((name for name, array in named.items() if array.dtype.hasobject), None):
            raise InputError(f"feed {count - 1}: {unfit} is not an array of numbers", "give numpy arrays")
        np.savez(folder / f"{count - 1:08}.npz", **named)  # type: ignore[arg-type]

    def read() -> Iterator[object]:
        for index in range(count):
            with np.load(folder / f"{index:08}.npz", allow_pickle=False) as file:
                feed = {name.removeprefix("feed/"): file[name] for name in file.files if name != "labels"}
                bare = feed[""] if set(feed) == {""} else feed
                yield (bare, file["labels"]) if "labels" in file.files else bare

    return read


def _several(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """A single text is one value, not its letters."""
    found = (values,) if isinstance(values, str) else tuple(values)
    if not all(isinstance(value, str) for value in found):
        raise InputError(f"{name}: {found!r} holds what is no text", f'give a list such as {name}=["..."]')
    return found


def _shapes(shapes: ShapesLike) -> dict[str, object]:
    if shapes == "auto":
        return {"shapes": (), "auto_shapes": True}
    if isinstance(shapes, str):
        raise InputError(f"shapes: {shapes!r} is not understood", 'give "auto", or {"x": (1, 3, 224, 224)}')
    profiles = (shapes,) if isinstance(shapes, Mapping) else tuple(shapes)
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
        return DeploymentProfile.model_validate({**profile.model_dump(exclude_unset=True), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "profile"
        raise InputError(f"{field}: {first['msg']}", f"correct the argument {field.partition('.')[0]}") from error


def _at(data: D, source: PathLike) -> D:
    return data.model_copy(update={"source": os.fspath(source)})
