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
from trtpipe.recipe import METHOD_NAMES
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
    session_option("--cache-dir", store=setter("cache_dir"), type=_path, metavar="DIR", help="Where work is kept."),
    session_option("--log-file", store=_start_log, type=_path, metavar="FILE", help="Add all that happens to FILE."),
    session_option("-q", "--quiet", store=setter("verbosity", -1), is_flag=True, help="Show warnings only."),
    session_option("-v", "--verbose", store=setter("verbosity", 1), is_flag=True, help="Show more detail."),
    session_option("--debug", store=setter("debug"), is_flag=True, help="Show the traceback of an error."),
)

out_option = session_option(
    "-o", "--out", store=setter("out"), type=_path, required=True, metavar="OUT", help="Where the result goes."
)
report_option = session_option(
    "-o", "--out", store=setter("out"), type=_path, metavar="OUT", help="Where the report goes; default: nowhere."
)
profile_file_option = session_option(
    "--profile", store=setter("profile_file"), type=_path, metavar="P.toml", help="Deployment profile."
)

precision_options = stacked(
    *(
        session_option(
            f"--{precision}", store=_set_precision(precision), is_flag=True, help=f"Compute in {precision}.{more}"
        )
        for precision, more in (
            ("int8", " Needs calibration data."),
            ("fp8", " Needs calibration data."),
            ("fp16", ""),
            ("bf16", ""),
            ("fp32", " The default."),
        )
    )
)

keep_option = profile_option(
    "--keep", at=("keep",), multiple=True, metavar="PATTERN", help="Nodes that stay in float32; may be repeated."
)

shape_options = stacked(
    *(
        session_option(option, store=_add_shapes(option), multiple=True, metavar="x:1x3x224x224", help=text)
        for option, text in zip(
            BOUNDS,
            (
                "Smallest shapes; used again, they belong to the next optimisation profile.",
                "Typical shapes.",
                "Largest shapes.",
                "Smallest, typical and largest shapes in one.",
            ),
            strict=True,
        )
    )
)

export_options = stacked(
    profile_option("--opset", at=("export", "opset"), type=int, help="ONNX opset of a PyTorch export [18-23]."),
    profile_option(
        "--input-names", at=("export", "input_names"), parse=_names, multiple=True, metavar="A,B", help="Of the export."
    ),
    profile_option(
        "--output-names", at=("export", "output_names"), parse=_names, multiple=True, metavar="A,B", help="Likewise."
    ),
)

target_options = stacked(
    profile_option(
        "--target", at=("targets",), parse=_targets, multiple=True, metavar="sm89,...", help="GPUs to build for."
    ),
    profile_option(
        "--backend",
        at=("backend",),
        type=click.Choice(["auto", "tensorrt", "tensorrt-rtx", "null"]),
        help="Which TensorRT; null makes stand-ins, for tests.",
    ),
)

builder_options = stacked(
    profile_option("--workspace", at=("build", "workspace"), parse=parse_bytes, metavar="4G", help="Builder's memory."),
    profile_option("--opt-level", at=("build", "opt_level"), type=int, help="Builder's effort [0-5]."),
    profile_option(
        "--time-limit", at=("build", "time_limit"), parse=parse_seconds, metavar="10min", help="Of one engine's build."
    ),
    profile_option(
        "--memory-limit", at=("build", "memory_limit"), parse=parse_bytes, metavar="8G", help="Of one engine's build."
    ),
)

latency_options = stacked(
    profile_option(
        "--warmup", at=("latency", "warmup"), parse=parse_seconds, metavar="200ms", help="Runs that do not count."
    ),
    profile_option("--duration", at=("latency", "duration"), parse=parse_seconds, metavar="3s", help="Runs that count."),
    profile_option(
        "--max-p99", at=("latency", "max_p99"), parse=parse_seconds, metavar="5ms", help="Latency gate, on GPUs only."
    ),
)

tolerance_options = stacked(
    profile_option(
        "--max-drop", at=("accuracy", "max_drop"), type=float, metavar="0.01", help="How far the metric may fall."
    ),
    *(
        session_option(
            f"--{key}", store=_add_tolerances(key), multiple=True, metavar="[OUTPUT:]X", help=f"{word} tolerance."
        )
        for key, word in (("atol", "Absolute"), ("rtol", "Relative"))
    ),
)

recipe_file_option = session_option(
    "--calib", store=setter("recipe_file"), type=_path, metavar="C.toml", help="Calibration recipe."
)


def calibration_options(data: str, samples: str, method: str) -> Decorator[Any]:
    """Data and method of calibration, under the names a command gives them."""
    return stacked(
        recipe_file_option,
        recipe_option(data, at=("data", "source"), metavar="DATA", help="Image folder, .npz, .npy or file.py:function."),
        recipe_option(samples, at=("data", "samples"), type=int, metavar="N", help="How many samples to use."),
        recipe_option(method, at=("method",), type=click.Choice(METHOD_NAMES), help="How ranges are chosen."),
        recipe_option("--percentile", at=("percentile",), type=float, metavar="X", help="Share of values kept, in %."),
        session_option(
            "--allow-random-calibration",
            store=setter("allow_random"),
            is_flag=True,
            help="Calibrate on random data if there is no other; never ship the result.",
        ),
    )


def evaluation_options(data: str) -> Decorator[Any]:
    """Held-out data and the task metric."""
    return stacked(
        recipe_option(data, at=("evaluation", "source"), metavar="DATA", help="Held-out data to compare outputs on."),
        recipe_option("--labels", at=("evaluation", "labels"), metavar="NAME", help="Array of labels in an .npz."),
        recipe_option(
            "--metric", at=("evaluation", "metric"), type=click.Choice(["top1", "top5"]), help="Task metric."
        ),
    )
