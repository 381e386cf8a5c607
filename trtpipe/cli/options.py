"""The options, each defined once; a command is a stack of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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
        "--log-file", store=start_log, type=_path, metavar="FILE", help="Append all that happens to FILE, with times."
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

explain_option = click.option(
    "--explain", metavar="NODE", help="Show only what became of this node, or of all that a shell pattern matches."
)

precision_options = stacked(
    *(
        session_option(f"--{precision}", store=set_precision(precision), is_flag=True, help=precision.help)
        for precision in Precision
    )
)

shape_options = stacked(
    *(
        session_option(option, store=add_shapes(option), multiple=True, metavar="x:1x3x224x224", help=words)
        for option, words in zip(
            BOUNDS,
            (
                "Smallest input shapes; given again, those of the next optimization profile.",
                "Typical input shapes.",
                "Largest input shapes.",
                "Smallest, typical and largest input shapes in one; auto: those of the calibration data.",
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
        parse=split_names,
        multiple=True,
        metavar="A,B",
        help="Names for the inputs of a PyTorch export.",
    ),
    profile_option(
        "--output-names",
        at=("export", "output_names"),
        parse=split_names,
        multiple=True,
        metavar="A,B",
        help="Names for its outputs.",
    ),
)

target_options = stacked(
    profile_option(
        "--target",
        at=("targets",),
        parse=target_names,
        multiple=True,
        metavar="sm89,sm120",
        help="GPUs to build for, by capability or product name; may be repeated.",
    ),
    profile_option(
        "--backend",
        at=("backend",),
        type=click.Choice(["auto", "tensorrt", "tensorrt-rtx", "torch-tensorrt", "null"]),
        help="Which TensorRT builds; torch-tensorrt goes there without ONNX; null makes stand-ins, for tests.",
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
            option,
            store=add_tolerances(option),
            multiple=True,
            metavar="[OUTPUT:]X",
            help=f"Gate: {words} of all outputs, or of one.",
        )
        for option, words in (
            ("--atol", "absolute tolerance"),
            ("--rtol", "relative tolerance"),
            ("--min-agreement", "least share of equal values, for integers,"),
        )
    ),
)


shape_data_options = stacked(
    recipe_file_option,
    recipe_option(
        "--calib-data",
        at=("data", "source"),
        metavar="DATA",
        help="Calibration data, for --shapes auto: images, .npz, .npy, .h5, .tar or file.py:function.",
    ),
)

weights_option = recipe_option(
    "--weights",
    at=("weights",),
    type=click.Choice(["max", "mse"]),
    help="How far each channel of a weight reaches: to its largest magnitude, or where the squared error is least.",
)


def calibration_options(data: str, samples: str, method: str) -> Decorator[Any]:
    """Data and method of calibration, under the names a command gives them."""
    return stacked(
        recipe_file_option,
        recipe_option(
            data,
            at=("data", "source"),
            metavar="DATA",
            help="Calibration data: images, .npz, .npy, .h5, .tar or file.py:function.",
        ),
        recipe_option(samples, at=("data", "samples"), type=int, metavar="N", help="How many samples to use."),
        recipe_option(
            "--skip-bad-samples",
            at=("data", "skip_bad_samples"),
            type=int,
            metavar="N",
            help="Leave out up to N samples that cannot be used, instead of stopping at the first.",
        ),
        recipe_option(method, at=("method",), type=click.Choice(METHOD_NAMES), help="How ranges are chosen."),
        recipe_option(
            "--percentile",
            at=("percentile",),
            type=float,
            metavar="99.99",
            help="Calibration percentile, 0 to 100.",
        ),
        weights_option,
        recipe_option(
            "--corrections",
            at=("corrections",),
            type=click.Choice(["auto", "none"]),
            help="Lessen the output's error: even out activations, correct biases, leave the worst nodes high; or not.",
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
            metavar="top1|top5|cosine|map|wer|FUNCTION",
            help="Task metric; FUNCTION is file.py:evaluate, or file.py:metric for each feed.",
        ),
        recipe_option(
            "--metric-of",
            at=("evaluation", "output"),
            metavar="NAME",
            help="The output the metric reads, or the figure of file.py:evaluate that counts.",
        ),
        recipe_option(
            "--lower-is-better",
            at=("evaluation", "lower_is_better"),
            is_flag=True,
            default=None,
            help="The figure of FUNCTION is an error.",
        ),
    )
