"""The options, each defined once; a command is a stack of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trtpipe.cli.groups import GENERAL
from trtpipe.cli.overrides import BOUNDS
from trtpipe.cli.wiring import (
    Decorator,
    add_shapes,
    add_tolerances,
    profile_option,
    recipe_option,
    session_option,
    set_precision,
    setter,
    split_names,
    stacked,
    start_log,
    target_names,
)
from trtpipe.config.formats import Precision
from trtpipe.config.methods import METHOD_NAMES

_path = click.Path(path_type=Path)

# An argument a line would make a page of every three options.
# fmt: off
PRECISION, DATA, CALIBRATION, SHAPES = "Precision", "Data", "Calibration", "Shapes"
ACCURACY, ENGINE, EXPORT = "Accuracy", "Engine", "Export"

json_option = session_option("--json", store=setter("json"), is_flag=True, help="Print one JSON document on stdout.")

common_options = stacked(
    session_option(
        "--cache-dir", store=setter("cache_dir"), type=_path, metavar="DIR", topic=GENERAL, common=False,
        help="Cache folder: stage results are kept there, for later runs.",
    ),
    session_option(
        "--log-file", store=start_log, type=_path, metavar="FILE", topic=GENERAL, common=False,
        help="Append a log with timestamps to FILE.",
    ),
    session_option(
        "-q", "--quiet", store=setter("verbosity", -1), is_flag=True, topic=GENERAL, common=False,
        help="Show warnings only.",
    ),
    session_option(
        "-v", "--verbose", store=setter("verbosity", 1), is_flag=True, topic=GENERAL, common=False,
        help="Show more detail.",
    ),
    session_option(
        "--debug", store=setter("debug"), is_flag=True, topic=GENERAL, common=False,
        help="Show the traceback of an error.",
    ),
)

out_option = session_option(
    "-o", "--out", store=setter("out"), type=_path, required=True, metavar="OUT", help="Output file or folder."
)

report_option = session_option(
    "-o", "--out", store=setter("out"), type=_path, metavar="OUT", help="Also write the report to OUT."
)

profile_file_option = session_option(
    "--profile", store=setter("profile_file"), type=_path, metavar="P.toml",
    help="Deployment profile: precision, targets, shapes, builder settings and gates.",
)

recipe_file_option = session_option(
    "--calib", store=setter("recipe_file"), type=_path, metavar="C.toml", topic=DATA,
    help="Calibration recipe: data, preprocessing and method.",
)

no_simplify_option = session_option(
    "--no-simplify", store=setter("simplify", False), is_flag=True, topic=EXPORT, common=False,
    help="Skip onnxsim.",
)

keep_option = profile_option(
    "--keep", at=("keep",), multiple=True, metavar="PATTERN", topic=PRECISION,
    help="Layers to keep in higher precision: a shell pattern of node names; may be repeated.",
)

explain_option = click.option(
    "--explain", metavar="NODE", help="Show the precision of this node (or shell pattern) and the reason."
)


def _precision(precision: Precision) -> Decorator[Any]:
    return session_option(
        f"--{precision}", store=set_precision(precision), is_flag=True, topic=PRECISION,
        common=bool(precision.formats),
        help=precision.help,
    )


precision_options = stacked(*map(_precision, Precision))
#: Those with layers to choose.
quantized_options = stacked(*(_precision(each) for each in Precision if each.quantized))

shape_options = stacked(
    *(
        session_option(
            option, store=add_shapes(option), multiple=True, metavar="x:1x3x224x224", topic=SHAPES,
            common=option == "--shapes",
            help=words,
        )
        for option, words in zip(
            BOUNDS,
            (
                "Min shapes of the optimization profile; given again, those of the next profile.",
                "Opt shapes of the optimization profile.",
                "Max shapes of the optimization profile.",
                "Min, opt and max shapes in one; auto: infer them from the calibration data.",
            ),
            strict=True,
        )
    )
)

export_options = stacked(
    profile_option(
        "--requantize", at=("requantize",), is_flag=True, topic=EXPORT, common=False,
        help="Take out the quantizers of an ONNX model that is quantized already.",
    ),
    profile_option(
        "--opset", at=("export", "opset"), type=int, topic=EXPORT, common=False,
        help="ONNX opset of a PyTorch export, 18 to 23.",
    ),
    profile_option(
        "--input-names", at=("export", "input_names"), parse=split_names, multiple=True, metavar="A,B",
        topic=EXPORT, common=False,
        help="Input names of a PyTorch export.",
    ),
    profile_option(
        "--output-names", at=("export", "output_names"), parse=split_names, multiple=True, metavar="A,B",
        topic=EXPORT, common=False,
        help="Output names of a PyTorch export.",
    ),
)

target_options = stacked(
    profile_option(
        "--target", at=("targets",), parse=target_names, multiple=True, metavar="sm89,sm120", topic=ENGINE,
        help="GPUs to build for: compute capability or product name; may be repeated.",
    ),
    profile_option(
        "--backend", at=("backend",),
        type=click.Choice(["auto", "tensorrt", "tensorrt-rtx", "torch-tensorrt", "null"]), topic=ENGINE,
        common=False,
        help="TensorRT flavor; torch-tensorrt compiles PyTorch without ONNX; null: placeholder engines, for tests.",
    ),
)

tolerance_options = stacked(
    profile_option(
        "--max-drop", at=("accuracy", "max_drop"), type=float, metavar="0.01", topic=ACCURACY, common=False,
        help="Accuracy gate: maximum drop of the metric.",
    ),
    *(
        session_option(
            option, store=add_tolerances(option), multiple=True, metavar="[OUTPUT:]X", topic=ACCURACY, common=False,
            help=f"Accuracy gate: {words}, of all outputs or of one.",
        )
        for option, words in (
            ("--atol", "absolute tolerance"),
            ("--rtol", "relative tolerance"),
            ("--min-agreement", "minimum share of equal values, for integers"),
        )
    ),
)


shape_data_options = stacked(
    recipe_file_option,
    recipe_option(
        "--calib-data", at=("data", "source"), metavar="DATA", topic=DATA,
        help="Calibration data, for --shapes auto: images, .npz, .npy, .h5, .tar or file.py:function.",
    ),
)

weights_option = recipe_option(
    "--weights", at=("weights",), type=click.Choice(["max", "mse"]), topic=CALIBRATION, common=False,
    help="Per-channel weight range: maximum magnitude, or least squared error.",
)


def calibration_options(data: str, samples: str, method: str) -> Decorator[Any]:
    """Data and method of calibration, under the names a command gives them."""
    return stacked(
        recipe_file_option,
        recipe_option(
            data, at=("data", "source"), metavar="DATA", topic=DATA,
            help="Calibration data: images, .npz, .npy, .h5, .tar or file.py:function.",
        ),
        recipe_option(
            samples, at=("data", "samples"), type=int, metavar="N", topic=DATA, common=False,
            help="Number of calibration samples.",
        ),
        recipe_option(
            "--skip-bad-samples", at=("data", "skip_bad_samples"), type=int, metavar="N", topic=DATA, common=False,
            help="Skip up to N bad samples, instead of stopping at the first.",
        ),
        recipe_option(
            method, at=("method",), type=click.Choice(METHOD_NAMES), topic=CALIBRATION,
            help="Calibration method.",
        ),
        recipe_option(
            "--percentile", at=("percentile",), type=float, metavar="99.99", topic=CALIBRATION, common=False,
            help="Calibration percentile, 0 to 100.",
        ),
        weights_option,
        recipe_option(
            "--corrections", at=("corrections",), type=click.Choice(["auto", "none"]), topic=CALIBRATION,
            common=False,
            help="PTQ corrections: SmoothQuant, bias correction, higher-precision fallback.",
        ),
        session_option(
            "--allow-random-calibration", store=setter("allow_random"), is_flag=True, topic=CALIBRATION,
            common=False,
            help="Calibrate on random data if there is no other; for tests only.",
        ),
    )


def evaluation_options(data: str) -> Decorator[Any]:
    """Held-out data and the task metric."""
    return stacked(
        recipe_option(
            data, at=("evaluation", "source"), metavar="DATA", topic=ACCURACY,
            help="Evaluation data: held-out samples on which outputs are compared.",
        ),
        recipe_option(
            "--labels", at=("evaluation", "labels"), metavar="NAME", topic=ACCURACY,
            help="The array of an .npz that holds the labels.",
        ),
        recipe_option(
            "--metric", at=("evaluation", "metric"), metavar="top1|top5|cosine|map|wer|FUNCTION", topic=ACCURACY,
            help="Task metric; FUNCTION is file.py:evaluate, or file.py:metric for each feed.",
        ),
        recipe_option(
            "--metric-of", at=("evaluation", "output"), metavar="NAME", topic=ACCURACY, common=False,
            help="The output the metric reads, or the value of file.py:evaluate that counts.",
        ),
        recipe_option(
            "--lower-is-better", at=("evaluation", "lower_is_better"), is_flag=True, default=None, topic=ACCURACY,
            common=False,
            help="FUNCTION gives an error, not a score.",
        ),
    )
