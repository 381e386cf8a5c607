"""The options that say how latency is measured."""

from __future__ import annotations

from trtpipe.cli.wiring import negated, numbers, profile_option, recipe_option, stacked
from trtpipe.config.units import parse_seconds

TOPIC = "Latency"

protocol = stacked(
    profile_option(
        "--warmup",
        at=("latency", "warmup"),
        parse=parse_seconds,
        metavar="200ms",
        topic=TOPIC,
        common=False,
        help="Warm-up time.",
    ),
    profile_option(
        "--duration",
        at=("latency", "duration"),
        parse=parse_seconds,
        metavar="3s",
        topic=TOPIC,
        common=False,
        help="Measurement time.",
    ),
    profile_option(
        "--iterations",
        at=("latency", "iterations"),
        type=int,
        topic=TOPIC,
        common=False,
        help="Minimum number of timed inferences.",
    ),
    profile_option(
        "--no-cuda-graph",
        at=("latency", "cuda_graph"),
        parse=negated,
        is_flag=True,
        topic=TOPIC,
        common=False,
        help="Do not capture a CUDA graph.",
    ),
    profile_option(
        "--no-transfers",
        at=("latency", "transfers"),
        parse=negated,
        is_flag=True,
        topic=TOPIC,
        common=False,
        help="Exclude host-to-device and device-to-host copies.",
    ),
    profile_option(
        "--max-p99",
        at=("latency", "max_p99"),
        parse=parse_seconds,
        metavar="5ms",
        topic=TOPIC,
        common=False,
        help="Latency gate: maximum p99 on a GPU.",
    ),
)

sweep = profile_option(
    "--batch",
    at=("latency", "batches"),
    parse=numbers,
    multiple=True,
    metavar="1,8,32",
    topic=TOPIC,
    help="Batch sizes to measure; may be repeated.",
)

data = stacked(
    recipe_option(
        "--data",
        at=("evaluation", "source"),
        metavar="DATA",
        topic="Data",
        help="Data whose first sample is the input (default: random).",
    ),
    recipe_option(
        "--labels",
        at=("evaluation", "labels"),
        metavar="NAME",
        topic="Data",
        common=False,
        help="The array of an .npz that holds labels.",
    ),
)
