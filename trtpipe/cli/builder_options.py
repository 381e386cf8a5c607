"""Options of the engine builder, named as trtexec names them where it has them."""

from __future__ import annotations

from functools import partial

import click

from trtpipe.cli.wiring import negated, profile_option, session_option, setter, stacked
from trtpipe.config.units import parse_bytes, parse_seconds

_TOPIC = "Engine builder"
_SWITCHES = (
    ("--version-compatible", "version_compatible", "Version-compatible engine: runs on later TensorRT versions too."),
    ("--exclude-lean-runtime", "exclude_lean_runtime", "Do not include the lean runtime in such an engine."),
    ("--weight-streaming", "weight_streaming", "Allow weight streaming from host memory."),
    ("--strip-weights", "strip_weights", "Weight-stripped engine: refit it with the weights."),
    ("--refit", "refit", "Refittable engine."),
    ("--sparsity", "sparsity", "Allow kernels for 2:4 structured sparsity."),
    ("--gpu-fallback", "gpu_fallback", "Run layers that the DLA does not support on the GPU."),
)
_LEVELS = click.Choice(["none", "ampere+", "same-compute-capability"])

_option = partial(profile_option, topic=_TOPIC, common=False)
_bytes, _seconds = partial(_option, parse=parse_bytes), partial(_option, parse=parse_seconds)

builder_options = stacked(
    _bytes("--workspace", at=("build", "workspace"), metavar="4G", help="Workspace limit."),
    _option("--opt-level", at=("build", "opt_level"), type=int, help="Builder optimization level, 0 to 5."),
    _option(
        "--hardware-compatibility",
        at=("build", "hardware_compatibility"), type=_LEVELS, help="Hardware compatibility level.",
    ),
    *(_option(name, at=("build", key), is_flag=True, default=None, help=words) for name, key, words in _SWITCHES),
    _option("--dla-core", at=("build", "dla_core"), type=int, metavar="N", help="Build for a DLA core."),
    _option(
        "--max-aux-streams",
        at=("build", "max_aux_streams"), type=int, metavar="N", help="Maximum number of auxiliary CUDA streams.",
    ),
    _option(
        "--no-timing-cache",
        at=("build", "timing_cache"), parse=negated, is_flag=True, help="Do not use the timing cache.",
    ),
    _seconds("--time-limit", at=("build", "time_limit"), metavar="10min", help="Build timeout, for each engine."),
    _bytes("--memory-limit", at=("build", "memory_limit"), metavar="8G", help="Build memory limit, for each engine."),
    session_option(
        "--jobs", store=setter("jobs"), type=click.IntRange(min=1), metavar="N", topic=_TOPIC, common=False,
        help="Number of engines to build in parallel (default: by cores and free memory).",
    ),
)  # fmt: skip
