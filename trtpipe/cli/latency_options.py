"""The options that say how latency is measured."""

from __future__ import annotations

from trtpipe.cli.wiring import negated, numbers, profile_option, recipe_option, stacked
from trtpipe.config.units import parse_seconds

protocol = stacked(
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
    profile_option("--iterations", at=("latency", "iterations"), type=int, help="Least number of runs to time."),
    profile_option(
        "--no-cuda-graph",
        at=("latency", "cuda_graph"),
        parse=negated,
        is_flag=True,
        help="Launch an engine's kernels one by one instead of as one CUDA graph.",
    ),
    profile_option(
        "--no-transfers",
        at=("latency", "transfers"),
        parse=negated,
        is_flag=True,
        help="Leave the copies to and from the GPU out of an engine's latency.",
    ),
    profile_option(
        "--max-p99",
        at=("latency", "max_p99"),
        parse=parse_seconds,
        metavar="5ms",
        help="Gate: the p99 on a GPU may not exceed this.",
    ),
)

sweep = profile_option(
    "--batch",
    at=("latency", "batches"),
    parse=numbers,
    multiple=True,
    metavar="1,8,32",
    help="Batch sizes to measure at; may be repeated.",
)

data = stacked(
    recipe_option(
        "--data", at=("evaluation", "source"), metavar="DATA", help="Data whose first sample fills the inputs."
    ),
    recipe_option(
        "--labels", at=("evaluation", "labels"), metavar="NAME", help="The array of an .npz that holds labels."
    ),
)
