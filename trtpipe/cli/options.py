"""The options, each defined once; a command is a stack of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click

from trtpipe.cli.listeners import LogFile
from trtpipe.cli.overrides import BOUNDS, Override
from trtpipe.cli.session import Session
from trtpipe.errors import InputError
from trtpipe.target import find_target
from trtpipe.units import parse_bytes, parse_seconds

F = TypeVar("F", bound=Callable[..., Any])
Decorator: TypeAlias = Callable[[F], F]
Store: TypeAlias = Callable[[Session, Any], None]

#: Hands the Session to a command.
pass_session = click.make_pass_decorator(Session)
_path = click.Path(path_type=Path)


def stacked(*decorators: Decorator[Any]) -> Decorator[Any]:
    """Several decorators as one; the first one's option comes first in the help."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def session_option(*names: str, store: Store, **attributes: Any) -> Decorator[Any]:
    """An option whose value goes into the Session instead of the command's parameters."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False and value != ():
            store(context.ensure_object(Session), value)

    return click.option(*names, expose_value=False, callback=callback, **attributes)


def profile_option(
    *names: str, at: tuple[str, ...], parse: Callable[[Any], object] | None = None, **attributes: Any
) -> Decorator[Any]:
    """An option that overrides one key of the deployment profile; ``parse`` may raise ValueError."""

    def store(session: Session, value: Any) -> None:
        session.profile_overrides.append(_override(names[0], at, value, parse))

    return session_option(*names, store=store, **attributes)


def recipe_option(*names: str, at: tuple[str, ...], **attributes: Any) -> Decorator[Any]:
    """An option that overrides one key of the calibration recipe."""

    def store(session: Session, value: Any) -> None:
        session.recipe_overrides.append(_override(names[0], at, value, None))

    return session_option(*names, store=store, **attributes)


def _override(option: str, at: tuple[str, ...], value: Any, parse: Callable[[Any], object] | None) -> Override:
    try:
        return Override(at, value if parse is None else parse(value), option)
    except ValueError as error:
        raise InputError(f"{option}: {error}", f"correct {option}") from error


def setter(attribute: str, value: object = None) -> Store:
    """Stores what the option was given, or ``value``, as an attribute of the Session."""
    return lambda session, given: setattr(session, attribute, given if value is None else value)


def _set_precision(precision: str) -> Store:
    def store(session: Session, _: bool) -> None:
        for other in session.profile_overrides:
            if other.at == ("precision",):
                raise InputError(f"{other.option} and --{precision} contradict each other", "choose one precision")
        session.profile_overrides.append(Override(("precision",), precision, f"--{precision}"))

    return store


def _add_shapes(option: str) -> Store:
    def store(session: Session, texts: tuple[str, ...]) -> None:
        from trtpipe.profile import parse_shapes

        session.shapes[option] = [parse_shapes(text) for text in texts]

    return store


def _add_tolerances(key: str) -> Store:
    def store(session: Session, texts: tuple[str, ...]) -> None:
        for text in texts:
            output, _, number = text.rpartition(":")
            at = ("tolerance", "outputs", output, key) if output else ("tolerance", key)
            session.profile_overrides.append(_override(f"--{key}", at, number, _number))

    return store


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number; write 1e-3, or OUTPUT:1e-3") from None


def _names(given: tuple[str, ...]) -> tuple[str, ...]:
    """From an option that may be repeated, and may hold several names separated by commas."""
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


def _targets(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(find_target(name).name for name in _names(given))


def _start_log(session: Session, path: Path) -> None:
    session.log = LogFile(path)


json_option = session_option("--json", store=setter("json"), is_flag=True, help="Print one JSON document on stdout.")

common_options = stacked(
    session_option(
        "--cache-dir",
        store=setter("cache_dir"),
        type=_path,
        metavar="DIR",
        help="Folder for finished work.",
    ),
    session_option(
        "--log-file", store=_start_log, type=_path, metavar="FILE", help="Append all that happens to FILE, with times."
    ),
    session_option("-q", "--quiet", store=setter("verbosity", -1), is_flag=True, help="Show warnings only."),
    session_option("-v", "--verbose", store=setter("verbosity", 1), is_flag=True, help="Show more detail."),
    session_option("--debug", store=setter("debug"), is_flag=True, help="Show the traceback of an error."),
)

out_option = session_option(
    "-o", "--out", store=setter("out"), type=_path, required=True, metavar="OUT", help="Where the result goes."
)

report_option = session_option(
    "-o", "--out", store=setter("out"), type=_path, metavar="OUT", help="Where the report goes; by default nowhere."
)

profile_file_option = session_option(
    "--profile",
    store=setter("profile_file"),
    type=_path,
    metavar="P.toml",
    help="Deployment profile: what to build, in a file.",
)

recipe_file_option = session_option(
    "--calib",
    store=setter("recipe_file"),
    type=_path,
    metavar="C.toml",
    help="Calibration recipe: data, preprocessing and method, in a file.",
)

no_simplify_option = session_option(
    "--no-simplify", store=setter("simplify", False), is_flag=True, help="Do not let onnxsim rewrite the graph."
)

keep_option = profile_option(
    "--keep",
    at=("keep",),
    multiple=True,
    metavar="PATTERN",
    help="Shell pattern of nodes that stay in float32; may be repeated.",
)

precision_options = stacked(
    *(
        session_option(
            f"--{precision}", store=_set_precision(precision), is_flag=True, help=f"Compute in {precision}{more}."
        )
        for precision, more in (
            ("int8", "; needs calibration data"),
            ("fp8", "; needs calibration data"),
            ("fp16", ""),
            ("bf16", ""),
            ("fp32", ", the default"),
        )
    )
)

shape_options = stacked(
    *(
        session_option(option, store=_add_shapes(option), multiple=True, metavar="x:1x3x224x224", help=words)
        for option, words in zip(
            BOUNDS,
            (
                "Smallest input shapes; given again, those of the next optimisation profile.",
                "Typical input shapes.",
                "Largest input shapes.",
                "Smallest, typical and largest input shapes in one.",
            ),
            strict=True,
        )
    )
)

export_options = stacked(
    profile_option("--opset", at=("export", "opset"), type=int, help="ONNX opset of a PyTorch export, 18 to 23."),
    profile_option(
        "--input-names",
        at=("export", "input_names"),
        parse=_names,
        multiple=True,
        metavar="A,B",
        help="Names for the inputs of a PyTorch export.",
    ),
    profile_option(
        "--output-names",
        at=("export", "output_names"),
        parse=_names,
        multiple=True,
        metavar="A,B",
        help="Names for its outputs.",
    ),
)

target_options = stacked(
    profile_option(
        "--target",
        at=("targets",),
        parse=_targets,
        multiple=True,
        metavar="sm89,sm120",
        help="GPUs to build for, by capability or product name; may be repeated.",
    ),
    profile_option(
        "--backend",
        at=("backend",),
        type=click.Choice(["auto", "tensorrt", "tensorrt-rtx", "null"]),
        help="Which TensorRT builds; null makes stand-ins, for tests.",
    ),
)

builder_options = stacked(
    profile_option(
        "--workspace",
        at=("build", "workspace"),
        parse=parse_bytes,
        metavar="4G",
        help="GPU memory the builder may try kernels with.",
    ),
    profile_option("--opt-level", at=("build", "opt_level"), type=int, help="Effort of the builder, 0 to 5."),
    profile_option(
        "--time-limit",
        at=("build", "time_limit"),
        parse=parse_seconds,
        metavar="10min",
        help="Most time the build of one engine may take.",
    ),
    profile_option(
        "--memory-limit",
        at=("build", "memory_limit"),
        parse=parse_bytes,
        metavar="8G",
        help="Most memory the build of one engine may take.",
    ),
)

latency_options = stacked(
    profile_option(
        "--warmup",
        at=("latency", "warmup"),
        parse=parse_seconds,
        metavar="200ms",
        help="How long to run before timing begins.",
    ),
    profile_option(
        "--duration", at=("latency", "duration"), parse=parse_seconds, metavar="3s", help="How long to time."
    ),
    profile_option(
        "--max-p99",
        at=("latency", "max_p99"),
        parse=parse_seconds,
        metavar="5ms",
        help="Gate: the p99 on a GPU may not exceed this.",
    ),
)

tolerance_options = stacked(
    profile_option(
        "--max-drop",
        at=("accuracy", "max_drop"),
        type=float,
        metavar="0.01",
        help="Gate: the metric may fall by at most this.",
    ),
    *(
        session_option(
            f"--{key}",
            store=_add_tolerances(key),
            multiple=True,
            metavar="[OUTPUT:]X",
            help=f"Gate: {word} tolerance of all outputs, or of one.",
        )
        for key, word in (("atol", "absolute"), ("rtol", "relative"))
    ),
)


def calibration_options(data: str, samples: str, method: str) -> Decorator[Any]:
    """Data and method of calibration, under the names a command gives them."""
    return stacked(
        recipe_file_option,
        recipe_option(
            data,
            at=("data", "source"),
            metavar="DATA",
            help="Calibration data: a folder of images, .npz, .npy or file.py:function.",
        ),
        recipe_option(samples, at=("data", "samples"), type=int, metavar="N", help="How many samples to use."),
        recipe_option(method, at=("method",), type=click.Choice(["max", "percentile"]), help="How ranges are chosen."),
        recipe_option(
            "--percentile",
            at=("percentile",),
            type=float,
            metavar="99.99",
            help="Share of the values that a range keeps, in percent.",
        ),
        session_option(
            "--allow-random-calibration",
            store=setter("allow_random"),
            is_flag=True,
            help="Calibrate on random data where no other is given; not for shipping.",
        ),
    )


def evaluation_options(data: str) -> Decorator[Any]:
    """Held-out data and the task metric."""
    return stacked(
        recipe_option(
            data, at=("evaluation", "source"), metavar="DATA", help="Held-out data on which outputs are compared."
        ),
        recipe_option(
            "--labels", at=("evaluation", "labels"), metavar="NAME", help="The array of an .npz that holds the labels."
        ),
        recipe_option(
            "--metric",
            at=("evaluation", "metric"),
            type=click.Choice(["top1", "top5"]),
            help="Task metric of labelled data.",
        ),
    )
