"""The options that say how latency is measured."""

from __future__ import annotations

from functools import partial

from trtpipe.cli.wiring import negated, numbers, profile_option, recipe_option, stacked
from trtpipe.config.units import parse_seconds

_TOPIC = "Latency"
_option = partial(profile_option, topic=_TOPIC, common=False)
_seconds, _off = partial(_option, parse=parse_seconds), partial(_option, parse=negated, is_flag=True)

protocol = stacked(
    _seconds("--warmup", at=("latency", "warmup"), metavar="200ms", help="Warm-up time."),
    _seconds("--duration", at=("latency", "duration"), metavar="3s", help="Measurement time."),
    _option("--iterations", at=("latency", "iterations"), type=int, help="Minimum number of timed inferences."),
    _off("--no-cuda-graph", at=("latency", "cuda_graph"), help="Do not capture a CUDA graph."),
    _off("--no-transfers", at=("latency", "transfers"), help="Exclude host-to-device and device-to-host copies."),
    _seconds("--max-p99", at=("latency", "max_p99"), metavar="5ms", help="Latency gate: maximum p99 on a GPU."),
)

sweep = profile_option(
    "--batch", at=("latency", "batches"), parse=numbers, multiple=True, metavar="1,8,32", topic=_TOPIC,
    help="Batch sizes to measure; may be repeated.",
)  # fmt: skip

data = stacked(
    recipe_option(
        "--data", at=("evaluation", "source"), metavar="DATA", topic="Data",
        help="Data whose first sample is the input (default: random).",
    ),
    recipe_option(
        "--labels", at=("evaluation", "labels"), metavar="NAME", topic="Data", common=False,
        help="The array of an .npz that holds labels.",
    ),
)  # fmt: skip
