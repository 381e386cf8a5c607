"""The arguments that public functions share, or have many of: their types, meanings and defaults, each said once.

Paths are ``str | os.PathLike``. A model is a file, a factory, a ``torch.nn.Module`` or an ``onnx.ModelProto``; data is
a file, a folder, a function's name or an iterable of feeds. Profiles and recipes are records or TOML files; the
arguments that most builds need override them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from textwrap import fill
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar, cast

from trtpipe.api.remedies import explained_to
from trtpipe.config.paths import PathLike
from trtpipe.config.settings import Settings
from trtpipe.config.units import check_names
from trtpipe.errors import InputError
from trtpipe.progress import Progress

if TYPE_CHECKING:
    from trtpipe.config.description import ModelDescription
    from trtpipe.config.formats import Precision
    from trtpipe.config.job import Job
    from trtpipe.config.profile import BuildSettings, DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.config.triton import TritonSettings
    from trtpipe.delivery.signing import SigningKey

F = TypeVar("F", bound=Callable[..., Any])

#: A path, ``file.py:factory``, ``package.module:factory``, an ``nn.Module`` (alone, or with example inputs in a tuple),
#: an ``onnx.ModelProto``, or a job from ``make_job``.
SourceLike: TypeAlias = "PathLike | tuple[object, Sequence[object]] | Job | object"
#: A path, ``file.py:function``, or feeds: an iterable (or a function that returns one) of what such a function yields.
DataLike: TypeAlias = "PathLike | Iterable[object] | Callable[[], Iterable[object]]"
ProfileLike: TypeAlias = "DeploymentProfile | PathLike"
#: Its name will do: ``"int8"``.
PrecisionLike: TypeAlias = "Precision | str"
RecipeLike: TypeAlias = "CalibrationRecipe | PathLike"
#: ``"auto"``; input -> shape, or input -> ``{"min": shape, "opt": shape, "max": shape}``; or several such mappings.
ShapesLike: TypeAlias = "Literal['auto'] | Mapping[str, object] | Sequence[Mapping[str, object]]"
DescriptionLike: TypeAlias = "ModelDescription | PathLike"
TritonLike: TypeAlias = "TritonSettings | bool | PathLike"
OptionsLike: TypeAlias = "BuildSettings | PathLike"


class CommonArguments(TypedDict, total=False):
    """What every function that runs stages takes."""

    profile: ProfileLike | None
    recipe: RecipeLike | None
    settings: Settings | None
    progress: Progress | None


class ModelArguments(CommonArguments, total=False):
    """What leads from a model to a quantized graph."""

    example_inputs: Sequence[object] | Mapping[str, object] | None
    precision: PrecisionLike | None
    shapes: ShapesLike | None
    keep: Sequence[str] | None
    calib_data: DataLike | None
    simplify: bool
    allow_random: bool


class BuildArguments(ModelArguments, total=False):
    """What leads from a model to engines."""

    targets: Sequence[str] | None
    eval_data: DataLike | None


class PackageArguments(TypedDict, total=False):
    """What goes with a build to the machine that runs it."""

    description: DescriptionLike | None
    samples: DataLike | None
    licenses: Sequence[PathLike]
    model_card: PathLike | None
    allow_failed: bool
    python: bool
    triton: TritonLike
    handover: str
    handover_options: OptionsLike | None
    sign: SigningKey | PathLike | None
    encrypt_to: Sequence[str]
    settings: Settings | None
    progress: Progress | None


#: What each of them means, in the order of the help.
MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "example_inputs": "example inputs of an ``nn.Module``: a tuple of positional ones (a dict of keyword ones may "
        "come last), or a dict of keyword ones. They may be nested: dicts, tuples, dataclasses, other objects.",
        "precision": "``fp32`` (default), ``fp16``, ``bf16``, ``int8``, ``fp8`` or ``best``; overrides the profile's.",
        "targets": 'GPUs to build for, such as ``["sm89", "rtx5090"]``; overrides the profile\'s (default: what the '
        "back-end builds for here).",
        "shapes": 'shapes of dynamic inputs: ``"auto"`` (from the calibration data), or input -> shape, or input -> '
        '``{"min": ..., "opt": ..., "max": ...}``; overrides the profile\'s.',
        "keep": "shell patterns of node names to keep in higher precision; overrides the profile's.",
        "calib_data": "calibration data: a path, ``file.py:function``, or an iterable of feeds (input name -> array "
        "with the batch axis, in the model's types); overrides the recipe's.",
        "eval_data": "evaluation data, as ``calib_data``, with labels where a task metric is to be measured; overrides "
        "the recipe's.",
        "profile": "everything else about what to build: a ``DeploymentProfile`` or a TOML file.",
        "recipe": "everything else about data and calibration: a ``CalibrationRecipe`` or a TOML file.",
        "description": "what only the author knows: name, version, meanings and units; a ``ModelDescription`` or a "
        "TOML file.",
        "samples": "reference inputs for the self-test: a path, ``file.py:function``, or feeds (input name -> array "
        "with the batch axis). By default those that PyTorch ran on, else seeded random ones.",
        "licenses": "files with the model's licenses.",
        "model_card": "a file that describes the model, its data and its limits.",
        "allow_failed": "take a build that failed a gate; the package records that.",
        "python": "add ``predict.py`` to the package, an example that runs it.",
        "triton": "write a model repository of Triton Inference Server instead: true, ``TritonSettings``, or a TOML "
        "file. Models of others that are in ``out`` stay.",
        "handover": "write a folder for a machine with this GPU (``orin``, ``sm87``) instead, whose ``finish.py`` "
        "builds the engine there; with ``triton`` both, as ``out/handover`` and ``out/repository``.",
        "handover_options": "of the builder there, ``BuildSettings`` or a TOML file with its keys; by default those of "
        "the build.",
        "sign": "the key that signs the package: a ``SigningKey``, the path of a PEM file, or a ``pkcs11:`` URI.",
        "encrypt_to": "recipients (``age1...``, ``ssh-ed25519 ...``, or files of them) who alone can read engines, "
        "graph and reference inputs.",
        "settings": "cache folder and limits (default: from the environment).",
        "simplify": "whether onnxsim may rewrite the graph.",
        "allow_random": "whether calibration may use seeded random data where none is given.",
        "progress": "listens.",
    }
)
#: Those that are not ``None`` if left out.
DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        "simplify": True, "allow_random": False,
        "licenses": (), "allow_failed": False, "python": False, "triton": False, "handover": "", "encrypt_to": (),
    }
)  # fmt: skip


#: Arguments that are either True or False.
_SWITCHES = ("simplify", "allow_random", "half", "recalibrate", "engines", "allow_failed", "python")


def check_arguments(named: Mapping[str, object]) -> None:
    """Refuse what is of another type than the argument of its name; paths, data and the like are checked where they
    are read.

    Raises:
        InputError: the message names the argument.
    """
    settings, progress = named.get("settings"), named.get("progress")
    if settings is not None and not isinstance(settings, Settings):
        raise InputError(
            f"settings: a {type(settings).__name__} is no Settings", "give trtpipe.Settings(cache_dir=...)"
        )
    if progress is not None and (isinstance(progress, type) or not isinstance(progress, Progress)):
        raise InputError(
            f"progress: {progress!r} does not listen: it lacks methods of trtpipe.Progress",
            "give an object of a class with begin, advance, note, warn and end",
        )
    for name in _SWITCHES:
        if not isinstance(value := named.get(name, False), bool):
            raise InputError(f"{name}: {value!r} is neither True nor False", f"give {name}=True or {name}=False")


def takes(arguments: type[Mapping[str, object]]) -> Callable[[F], F]:
    """Show, explain and check the keyword arguments of a public function that end in ``**name: Unpack[arguments]``.

    ``help`` and ``inspect.signature`` list each of them with its type and default, the docstring says what it means
    unless it does so already, and a name that is not among them is a TypeError.
    """

    def decorate(function: F) -> F:
        plain = inspect.signature(function)
        *own, _ = plain.parameters.values()
        types = arguments.__annotations__
        shared = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS.get(name), annotation=types[name].__forward_arg__
            )
            for name in MEANINGS
            if name in types
        ]
        known = {parameter.name for parameter in (*own, *shared)}

        @wraps(function)
        def checked(*positional: object, **named: object) -> object:
            check_names(function.__name__, named, known)
            with explained_to(known):
                check_arguments(named)
                return function(*positional, **named)

        vars(checked)["__signature__"] = plain.replace(parameters=[*own, *shared])
        checked.__doc__ = _explained(inspect.getdoc(function) or "", [name for name in MEANINGS if name in known])
        return cast("F", checked)

    return decorate


def _explained(text: str, names: Sequence[str]) -> str:
    """A docstring whose list of arguments goes on with those of ``names`` that it lacks."""
    before, heading, after = text.partition("Args:\n")
    described, gap, rest = after.partition("\n\n")
    missing = [name for name in names if not re.search(rf"^    (\w+, )*{name}\b.*:", described, re.MULTILINE)]
    lines = [
        fill(f"{name}: {MEANINGS[name]}", 116, initial_indent=" " * 4, subsequent_indent=" " * 8) for name in missing
    ]
    return "".join((before, heading, "\n".join([described, *lines]), gap, rest))
