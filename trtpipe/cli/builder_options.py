"""Options of the engine builder: trtexec's words where it has them."""

from __future__ import annotations

import click

from trtpipe.cli.wiring import profile_option, session_option, setter, stacked
from trtpipe.config.units import parse_bytes, parse_seconds

_SWITCHES = (
    ("--version-compatible", "version_compatible", "The engine also runs on later versions of the same TensorRT."),
    ("--exclude-lean-runtime", "exclude_lean_runtime", "Such an engine does not carry its own runtime."),
    ("--weight-streaming", "weight_streaming", "Weights may stay in host memory and be streamed to the GPU."),
    ("--strip-weights", "strip_weights", "Leave the weights out of the plan; a refit puts them back."),
    ("--refit", "refit", "Weights can be exchanged in the finished engine."),
    ("--sparsity", "sparsity", "Kernels for weights with two zeros in every four may be used."),
    ("--gpu-fallback", "gpu_fallback", "The GPU runs the layers that the DLA cannot."),
)

builder_options = stacked(
    profile_option(
        "--workspace",
        at=("build", "workspace"),
        parse=parse_bytes,
        metavar="4G",
        help="Most scratch memory of an engine on the GPU.",
    ),
    profile_option("--opt-level", at=("build", "opt_level"), type=int, help="Effort of the builder, 0 to 5."),
    profile_option(
        "--hardware-compatibility",
        at=("build", "hardware_compatibility"),
        type=click.Choice(["none", "ampere+", "same-compute-capability"]),
        help="On which other GPUs the engine runs too.",
    ),
    *(
        profile_option(name, at=("build", key), is_flag=True, default=None, help=words)
        for name, key, words in _SWITCHES
    ),
    profile_option("--dla-core", at=("build", "dla_core"), type=int, metavar="N", help="Build for a DLA core."),
    profile_option(
        "--max-aux-streams",
        at=("build", "max_aux_streams"),
        type=int,
        metavar="N",
        help="CUDA streams that an inference may use besides its own.",
    ),
    profile_option(
        "--no-timing-cache",
        at=("build", "timing_cache"),
        parse=lambda given: not given,
        is_flag=True,
        help="Time every kernel again, instead of using what earlier builds measured.",
    ),
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
    session_option(
        "--jobs",
        store=setter("jobs"),
        type=click.IntRange(min=1),
        metavar="N",
        help="Engines that may be built at once; by default as many as cores and memory allow.",
    ),
)
