"""The options, each defined once, and how each finds its way into the Session; a command is a stack of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click

from trtpipe.cli.groups import GENERAL, TopicCommand, TopicOption, files, preset_names
from trtpipe.cli.listeners import LogFile
from trtpipe.cli.session import BOUNDS, Override, Session
from trtpipe.config.formats import Precision
from trtpipe.config.methods import METHOD_NAMES
from trtpipe.config.paths import refuse_url
from trtpipe.config.target import find_target
from trtpipe.config.units import amount, parse_amount, parse_bytes, parse_seconds
from trtpipe.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Decorator: TypeAlias = "Callable[[Any], Any]"
Store: TypeAlias = Callable[[Session, Any], None]

#: Hands the Session to a command.
pass_session = click.make_pass_decorator(Session)


def stacked(*decorators: Decorator) -> Decorator:
    """Several decorators as one; the first one's option comes first in the help."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def session_option(*names: str, store: Store, **attributes: Any) -> Decorator:
    """An option whose value goes into the Session instead of the command's parameters."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False and value != ():
            store(context.ensure_object(Session), value)

    return click.option(*names, cls=TopicOption, expose_value=False, callback=callback, **attributes)


def _key_option(
    overrides: Callable[[Session], list[Override]],
    name: str,
    key: str,
    topic: str,
    help: str,
    *,
    common: bool = False,
    parse: Callable[[Any], object] | None = None,
    usual: str = "",
    **attributes: Any,
) -> Decorator:
    """An option that overrides one ``key`` of a file (``build.workspace``); ``parse`` may raise ValueError.

    Args:
        usual: the default of the key as one would write it, for the help: files are not read for that.
    """

    def store(session: Session, value: Any) -> None:
        given = value if parse is None else parsed(name, parse, value)
        overrides(session).append(Override(tuple(key.split(".")), given, name))

    return session_option(name, store=store, topic=topic, common=common, help=help, usual=usual, **attributes)


#: An option that overrides a key of the deployment profile, and one that overrides a key of the calibration recipe.
profile_option = partial(_key_option, attrgetter("profile_overrides"))
recipe_option = partial(_key_option, attrgetter("recipe_overrides"))


def package_option(name: str, attribute: str, help: str, *, topic: str, **attributes: Any) -> Decorator:
    """An option of ``package make``: its value becomes an attribute of ``Session.package``."""

    def store(session: Session, value: Any) -> None:
        setattr(session.package, attribute, value)

    return session_option(name, store=store, topic=topic, help=help, **attributes)


def parsed(option: str, parse: Callable[[Any], T], value: Any) -> T:
    """What ``option`` was given, read by ``parse``.

    Raises:
        InputError: ``parse`` raised ValueError.
    """
    try:
        return parse(value)
    except ValueError as error:
        raise InputError(f"{option}: {error}", f"correct {option}") from error


def setter(attribute: str, value: object = None) -> Store:
    """Stores what the option was given, or ``value``, as an attribute of the Session."""
    return lambda session, given: setattr(session, attribute, given if value is None else value)


def set_precision(precision: Precision) -> Store:
    """Sets the precision; with a second one that which computes in both, as ``--int8 --fp16`` does in trtexec."""

    def store(session: Session, _: bool) -> None:
        option, chosen = f"--{precision}", precision
        for other in [each for each in session.profile_overrides if each.at == ("precision",)]:
            both = precision.joined(other.value) if isinstance(other.value, Precision) else None
            if both is None:
                raise InputError(f"{other.option} and --{precision} contradict each other", "choose one precision")
            option, chosen = f"{other.option} --{precision}", both
            session.profile_overrides.remove(other)
        session.profile_overrides.append(Override(("precision",), chosen, option))

    return store


def add_shapes(option: str) -> Store:
    """Keeps what a shape option was given, each time it was used."""

    def store(session: Session, texts: tuple[str, ...]) -> None:
        from trtpipe.config.shapes import parse_shapes

        given = [text for text in texts if not (option == "--shapes" and text.strip() == "auto")]
        session.auto_shapes = session.auto_shapes or len(given) < len(texts)
        if given:
            session.shapes[option] = [parse_shapes(text) for text in given]

    return store


def add_floors(session: Session, texts: tuple[str, ...]) -> None:
    """Keeps the least values of metrics."""
    for name, value in floors(texts).items():
        session.profile_overrides.append(Override(("accuracy", "min_metric", name), value, "--min-metric"))


def floors(texts: Iterable[str]) -> dict[str, float | str]:
    """Least values from what ``--min-metric`` was given: ``top1=91%``.

    Raises:
        InputError: one is no such thing.
    """
    found = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not (name and equals):
            raise InputError(f"--min-metric: {text!r} names no metric", "write --min-metric top1=91%")
        found[name.strip()] = parsed("--min-metric", parse_amount, value)
    return found


def add_tolerances(option: str) -> Store:
    """Sets a tolerance, for all outputs (``1e-3``) or for one (``logits:1e-3``)."""
    key = option.removeprefix("--").replace("-", "_")

    def store(session: Session, texts: tuple[str, ...]) -> None:
        for text in texts:
            output, colon, number = text.rpartition(":")
            if colon and not output:
                raise InputError(f"{option}: {text!r} names no output", f"write {option} {number}, or OUTPUT{text}")
            at = ("tolerance", "outputs", output, key) if output else ("tolerance", key)
            session.profile_overrides.append(Override(at, parsed(option, _number, number), option))

    return store


def _number(text: str) -> float:
    try:
        return amount(parse_amount(text), bounded=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a number; write 1e-3, or OUTPUT:1e-3") from None


def split_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """From an option that may be repeated, and may hold several names separated by commas."""
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


def numbers(given: tuple[str, ...]) -> tuple[int, ...]:
    """From an option that may be repeated, and may hold several whole numbers separated by commas."""
    try:
        return tuple(int(text) for text in split_names(given))
    except ValueError:
        raise ValueError(f"{', '.join(given)!r} are not whole numbers; write 1,8,32") from None


def negated(given: bool) -> bool:
    """From a flag that switches something off."""
    return not given


def target_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """Capabilities from what people call their GPUs."""
    names = split_names(given)
    if not names:
        raise ValueError("no target is named")
    return tuple(find_target(name).name for name in names)


def start_log(session: Session, path: Path) -> None:
    """Opens the log file at once, so that an error is reported before any work."""
    session.log = LogFile(path)


class _Path(click.Path):
    """A path; an empty one names nothing, and would be the working folder."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty path", param, context)
        refuse_url(str(value))
        return super().convert(value, param, context)


PATH = _Path(path_type=Path)

# An argument a line would make a page of every three options.
# fmt: off
PRECISION, DATA, CALIBRATION, SHAPES = "Precision", "Data", "Calibration", "Shapes"
ACCURACY, ENGINE, EXPORT, BUILDER, LATENCY = "Accuracy", "Engine", "Export", "Engine builder", "Latency"

json_option = session_option("--json", store=setter("json"), is_flag=True, help="Print one JSON document on stdout.")

_general = partial(session_option, topic=GENERAL, common=False)
common_options = stacked(
    _general("--cache-dir", store=setter("cache_dir"), type=PATH, metavar="DIR",
             help="Cache folder: stage results are kept there, for later runs."),
    _general("--log-file", store=start_log, type=PATH, metavar="FILE", help="Append a log with timestamps to FILE."),
    _general("-q", "--quiet", store=setter("verbosity", -1), is_flag=True, help="Show warnings only."),
    _general("-v", "--verbose", store=setter("verbosity", 1), is_flag=True, help="Show more detail."),
    _general("--debug", store=setter("debug"), is_flag=True, help="Show the traceback of an error."),
)


def command(
    *parts: Decorator, group: click.Group | None = None, name: str | None = None, examples: Sequence[str]
) -> Callable[[Callable[..., int]], click.Command]:
    """A command of its own arguments and options, and of those that all have; it gets the Session first.

    Args:
        group: where it is added.
        name: by default the function's.
        examples: command lines for the help.
    """
    define = click.command if group is None else group.command

    def decorate(function: Callable[..., int]) -> click.Command:
        whole = stacked(*parts, json_option, common_options)(pass_session(function))
        return define(name, cls=TopicCommand, examples=examples)(whole)

    return decorate


source_argument = click.argument("source", shell_complete=files)

out_option = session_option(
    "-o", "--out", store=setter("out"), type=PATH, required=True, metavar="OUT", help="Output file or folder."
)

report_option = session_option(
    "-o", "--out", store=setter("out"), type=PATH, metavar="OUT", help="Also write the report to OUT."
)

profile_file_option = session_option(
    "--profile", store=setter("profile_file"), type=PATH, metavar="P.toml", shell_complete=preset_names("profiles"),
    help="Deployment profile: precision, targets, shapes, builder settings and gates; or a name: trtpipe recipes.",
)

recipe_file_option = session_option(
    "--calib", store=setter("recipe_file"), type=PATH, metavar="C.toml", topic=DATA,
    shell_complete=preset_names("calib"),
    help="Calibration recipe: data, preprocessing and method; or a name: trtpipe recipes.",
)

no_simplify_option = session_option(
    "--no-simplify", store=setter("simplify", False), is_flag=True, topic=EXPORT, common=False, help="Skip onnxsim.",
)

keep_option = profile_option(
    "--keep", "keep", PRECISION, "Layers to keep in higher precision: a shell pattern of node names; may be repeated.",
    common=True, multiple=True, metavar="PATTERN",
)

explain_option = click.option(
    "--explain", metavar="NODE", help="Show the precision of this node (or shell pattern) and the reason."
)


def _precision(precision: Precision) -> Decorator:
    return session_option(
        f"--{precision}", store=set_precision(precision), is_flag=True, topic=PRECISION,
        common=bool(precision.formats), help=precision.help,
    )


precision_options = stacked(*map(_precision, Precision))
#: Those with layers to choose.
quantized_options = stacked(*(_precision(each) for each in Precision if each.quantized))

_SHAPE_HELP = (
    "Min shapes of the optimization profile; an input named again begins the next one.",
    "Opt shapes of the optimization profile.",
    "Max shapes of the optimization profile.",
    "Min, opt and max shapes in one; auto: infer them from the calibration data.",
)
shape_options = stacked(*(
    session_option(option, store=add_shapes(option), multiple=True, metavar="x:1x3x224x224", topic=SHAPES,
                   common=option == "--shapes", help=words)
    for option, words in zip(BOUNDS, _SHAPE_HELP, strict=True)
))

_names = partial(profile_option, parse=split_names, multiple=True, metavar="A,B")
export_options = stacked(
    profile_option(
        "--requantize", "requantize", EXPORT, "Take out the quantizers of a model that is quantized already.",
        is_flag=True,
    ),
    profile_option(
        "--fold-preprocessing", "build.fold_preprocessing", EXPORT,
        "Write the recipe's normalization and layout of images into the graph: it takes uint8 NHWC.",
        is_flag=True, default=None,
    ),
    profile_option("--opset", "export.opset", EXPORT, "ONNX opset of a PyTorch export, 18 to 23.", type=int,
                   usual="20"),
    _names("--input-names", "export.input_names", EXPORT, "Input names of a PyTorch export."),
    _names("--output-names", "export.output_names", EXPORT, "Output names of a PyTorch export."),
)

target_options = stacked(
    profile_option(
        "--target", "targets", ENGINE, "GPUs to build for: compute capability or product name; may be repeated.",
        common=True, parse=target_names, multiple=True, metavar="sm89,sm120",
    ),
    profile_option(
        "--backend", "backend", ENGINE,
        "TensorRT flavor; torch-tensorrt compiles PyTorch without ONNX; null: placeholder engines, for tests.",
        type=click.Choice(["auto", "tensorrt", "tensorrt-rtx", "torch-tensorrt", "null"]), usual="auto",
    ),
)

_TOLERANCES = {
    "--atol": "absolute tolerance",
    "--rtol": "relative tolerance",
    "--min-agreement": "minimum share of equal values, for integers",
}
tolerance_options = stacked(
    profile_option("--max-drop", "accuracy.max_drop", ACCURACY, "Accuracy gate: maximum drop of the metric.",
                   common=True, parse=parse_amount, metavar="1%", usual="1%"),
    session_option("--min-metric", store=add_floors, multiple=True, metavar="NAME=VALUE", topic=ACCURACY, common=False,
                   help="Accuracy gate: minimum value of the metric; of an error, maximum."),
    *(
        session_option(option, store=add_tolerances(option), multiple=True, metavar="[OUTPUT:]X", topic=ACCURACY,
                       common=False, help=f"Accuracy gate: {words}, of all outputs or of one.")
        for option, words in _TOLERANCES.items()
    ),
)

shape_data_options = stacked(
    recipe_file_option,
    recipe_option(
        "--calib-data", "data.source", DATA,
        "Calibration data, for --shapes auto: images, .npz, .npy, .h5, .tar or file.py:function.",
        common=True, metavar="DATA",
    ),
)

weights_option = recipe_option(
    "--weights", "weights", CALIBRATION, "Per-channel weight range: maximum magnitude, or least squared error.",
    type=click.Choice(["max", "mse"]), usual="max",
)


def calibration_options(data: str, samples: str, method: str) -> Decorator:
    """Data and method of calibration, under the names a command gives them."""
    return stacked(
        recipe_file_option,
        recipe_option(
            data, "data.source", DATA, "Calibration data: images, .npz, .npy, .h5, .tar or file.py:function.",
            common=True, metavar="DATA",
        ),
        recipe_option(samples, "data.samples", DATA, "Number of calibration samples.", type=int, metavar="N"),
        recipe_option(
            "--skip-bad-samples", "data.skip_bad_samples", DATA,
            "Skip up to N bad samples, instead of stopping at the first.", type=int, metavar="N", usual="0",
        ),
        recipe_option(
            method, "method", CALIBRATION, "Calibration method.", common=True, type=click.Choice(METHOD_NAMES),
            usual="percentile",
        ),
        recipe_option(
            "--percentile", "percentile", CALIBRATION, "Calibration percentile, 0 to 100.", type=float, metavar="P",
            usual="99.99",
        ),
        weights_option,
        recipe_option(
            "--corrections", "corrections", CALIBRATION,
            "PTQ corrections: SmoothQuant, bias correction, higher-precision fallback.",
            type=click.Choice(["auto", "none"]), usual="auto",
        ),
        session_option(
            "--allow-random-calibration", store=setter("allow_random"), is_flag=True, topic=CALIBRATION, common=False,
            help="Calibrate on random data if there is no other; for tests only.",
        ),
    )


def evaluation_options(data: str) -> Decorator:
    """Held-out data and the task metric."""
    return stacked(
        recipe_option(
            data, "evaluation.source", ACCURACY, "Evaluation data: held-out samples on which outputs are compared.",
            common=True, metavar="DATA",
        ),
        recipe_option(
            "--labels", "evaluation.labels", ACCURACY, "The array of an .npz that holds the labels.",
            metavar="NAME",
        ),
        recipe_option(
            "--metric", "evaluation.metric", ACCURACY,
            "Task metric; FUNCTION is file.py:evaluate, or file.py:metric for each feed.",
            common=True, metavar="top1|top5|cosine|map|wer|FUNCTION", usual="top1",
        ),
        recipe_option(
            "--metric-of", "evaluation.output", ACCURACY,
            "The output the metric reads, or the value of file.py:evaluate that counts.", metavar="NAME",
        ),
        recipe_option(
            "--lower-is-better", "evaluation.lower_is_better", ACCURACY, "FUNCTION gives an error, not a score.",
            is_flag=True, default=None,
        ),
    )


# Options of the engine builder are named as trtexec names them where it has them.
_switch = partial(profile_option, is_flag=True, default=None)
builder_options = stacked(
    profile_option("--workspace", "build.workspace", BUILDER, "Workspace limit.", parse=parse_bytes, metavar="4G"),
    profile_option("--opt-level", "build.opt_level", BUILDER, "Builder optimization level, 0 to 5.", type=int),
    profile_option(
        "--hardware-compatibility", "build.hardware_compatibility", BUILDER, "Hardware compatibility level.",
        type=click.Choice(["none", "ampere+", "same-compute-capability"]), usual="none",
    ),
    _switch("--version-compatible", "build.version_compatible", BUILDER,
            "Version-compatible engine: runs on later TensorRT versions too."),
    _switch("--exclude-lean-runtime", "build.exclude_lean_runtime", BUILDER,
            "Do not include the lean runtime in such an engine."),
    _switch("--weight-streaming", "build.weight_streaming", BUILDER, "Allow weight streaming from host memory."),
    _switch("--strip-weights", "build.strip_weights", BUILDER, "Weight-stripped engine: refit it with the weights."),
    _switch("--refit", "build.refit", BUILDER, "Refittable engine."),
    _switch("--sparsity", "build.sparsity", BUILDER, "Allow kernels for 2:4 structured sparsity."),
    _switch("--gpu-fallback", "build.gpu_fallback", BUILDER, "Run layers that the DLA does not support on the GPU."),
    profile_option("--dla-core", "build.dla_core", BUILDER, "Build for a DLA core.", type=int, metavar="N"),
    profile_option("--max-aux-streams", "build.max_aux_streams", BUILDER, "Maximum number of auxiliary CUDA streams.",
                   type=int, metavar="N"),
    profile_option("--no-timing-cache", "build.timing_cache", BUILDER, "Do not use the timing cache.",
                   parse=negated, is_flag=True),
    profile_option("--time-limit", "build.time_limit", BUILDER, "Build timeout, for each engine.",
                   parse=parse_seconds, metavar="10min"),
    profile_option("--memory-limit", "build.memory_limit", BUILDER, "Build memory limit, for each engine.",
                   parse=parse_bytes, metavar="8G"),
    session_option("--jobs", store=setter("jobs"), type=click.IntRange(min=1), metavar="N", topic=BUILDER, common=False,
                   help="Number of engines to build in parallel (default: by cores and free memory)."),
)

_duration = partial(profile_option, parse=parse_seconds)
protocol_options = stacked(
    _duration("--warmup", "latency.warmup", LATENCY, "Warm-up time.", metavar="TIME", usual="200ms"),
    _duration("--duration", "latency.duration", LATENCY, "Measurement time.", metavar="TIME", usual="3s"),
    profile_option("--iterations", "latency.iterations", LATENCY, "Minimum number of timed inferences.", type=int,
                   usual="10"),
    profile_option("--no-cuda-graph", "latency.cuda_graph", LATENCY, "Do not capture a CUDA graph.",
                   parse=negated, is_flag=True),
    profile_option("--no-transfers", "latency.transfers", LATENCY, "Exclude host-to-device and device-to-host copies.",
                   parse=negated, is_flag=True),
    _duration("--max-p99", "latency.max_p99", LATENCY, "Latency gate: maximum p99 on a GPU.", metavar="5ms"),
)

batch_option = profile_option(
    "--batch", "latency.batches", LATENCY, "Batch sizes to measure; may be repeated.",
    common=True, parse=numbers, multiple=True, metavar="1,8,32",
)

input_options = stacked(
    recipe_option(
        "--data", "evaluation.source", DATA, "Data whose first sample is the input (default: random).",
        common=True, metavar="DATA",
    ),
    recipe_option("--labels", "evaluation.labels", DATA, "The array of an .npz that holds labels.", metavar="NAME"),
)
