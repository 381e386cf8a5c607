"""Options of the engine builder, named as trtexec names them where it has them."""

from __future__ import annotations

import click

from trtpipe.cli.wiring import negated, profile_option, session_option, setter, stacked
from trtpipe.config.units import parse_bytes, parse_seconds

TOPIC = "Engine builder"

_SWITCHES = (
    ("--version-compatible", "version_compatible", "Version-compatible engine: runs on later TensorRT versions too."),
    ("--exclude-lean-runtime", "exclude_lean_runtime", "Do not include the lean runtime in such an engine."),
    ("--weight-streaming", "weight_streaming", "Allow weight streaming from host memory."),
    ("--strip-weights", "strip_weights", "Weight-stripped engine: refit it with the weights."),
    ("--refit", "refit", "Refittable engine."),
    ("--sparsity", "sparsity", "Allow kernels for 2:4 structured sparsity."),
    ("--gpu-fallback", "gpu_fallback", "Run layers that the DLA does not support on the GPU."),
)

builder_options = stacked(
    profile_option(
        "--workspace",
        at=("build", "workspace"),
        parse=parse_bytes,
        metavar="4G",
        topic=TOPIC,
        common=False,
        help="Workspace limit.",
    ),
    profile_option(
        "--opt-level",
        at=("build", "opt_level"),
        type=int,
        topic=TOPIC,
        common=False,
        help="Builder optimization level, 0 to 5.",
    ),
    profile_option(
        "--hardware-compatibility",
        at=("build", "hardware_compatibility"),
        type=click.Choice(["none", "ampere+", "same-compute-capability"]),
        topic=TOPIC,
        common=False,
        help="Hardware compatibility level.",
    ),
    *(
        profile_option(name, at=("build", key), is_flag=True, default=None, topic=TOPIC, common=False, help=words)
        for name, key, words in _SWITCHES
    ),
    profile_option(
        "--dla-core",
        at=("build", "dla_core"),
        type=int,
        metavar="N",
        topic=TOPIC,
        common=False,
        help="Build for a DLA core.",
    ),
    profile_option(
        "--max-aux-streams",
        at=("build", "max_aux_streams"),
        type=int,
        metavar="N",
        topic=TOPIC,
        common=False,
        help="Maximum number of auxiliary CUDA streams.",
    ),
    profile_option(
        "--no-timing-cache",
        at=("build", "timing_cache"),
        parse=negated,
        is_flag=True,
        topic=TOPIC,
        common=False,
        help="Do not use the timing cache.",
    ),
    profile_option(
        "--time-limit",
        at=("build", "time_limit"),
        parse=parse_seconds,
        metavar="10min",
        topic=TOPIC,
        common=False,
        help="Build timeout, for each engine.",
    ),
    profile_option(
        "--memory-limit",
        at=("build", "memory_limit"),
        parse=parse_bytes,
        metavar="8G",
        topic=TOPIC,
        common=False,
        help="Build memory limit, for each engine.",
    ),
    session_option(
        "--jobs",
        store=setter("jobs"),
        type=click.IntRange(min=1),
        metavar="N",
        topic=TOPIC,
        common=False,
        help="Number of engines to build in parallel (default: by cores and free memory).",
    ),
)
