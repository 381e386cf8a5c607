"""The settings of TensorRT's builder as other programs take them: flags of its API, and trtexec's command line."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from trtpipe.backends.trt.options import flag_names, hardware_level

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtpipe.config.profile import BuildSettings, OptimizationProfile

__all__ = ["command_line", "flag_names", "hardware_level"]

#: Settings that are options of trtexec of one word.
_SWITCHES: Mapping[str, str] = {
    "version_compatible": "--versionCompatible",
    "exclude_lean_runtime": "--excludeLeanRuntime",
    "weight_streaming": "--allowWeightStreaming",
    "strip_weights": "--stripWeights",
    "refit": "--refit",
    "gpu_fallback": "--allowGPUFallback",
}
_LEVELS: Mapping[str, str] = {"ampere+": "ampere+", "same-compute-capability": "sameComputeCapability"}


def command_line(model: str, plan: str, profiles: Sequence[OptimizationProfile], options: BuildSettings) -> str:
    """trtexec's command for a build, with all optimization profiles.

    >>> from trtpipe.config.profile import BuildSettings
    >>> command_line("m.onnx", "m.plan", (), BuildSettings())
    'trtexec --onnx=m.onnx --saveEngine=m.plan --stronglyTyped'
    """
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={plan}", "--stronglyTyped"]
    for index, profile in enumerate(profiles):
        words += [f"--profile={index}"] if len(profiles) > 1 else []  # of what follows it
        for side in ("min", "opt", "max"):
            given = ",".join(f"{name}:{'x'.join(map(str, getattr(each, side)))}" for name, each in profile.items())
            words.append(f"--{side}Shapes={given}")
    return shlex.join([*words, *_settings(options)])


def _settings(options: BuildSettings) -> Iterator[str]:
    if options.workspace is not None:
        yield f"--memPoolSize=workspace:{options.workspace / (1 << 20):g}"  # in MiB
    if options.opt_level is not None:
        yield f"--builderOptimizationLevel={options.opt_level}"
    if options.max_aux_streams is not None:
        yield f"--maxAuxStreams={options.max_aux_streams}"
    yield from (word for name, word in _SWITCHES.items() if getattr(options, name))
    if options.sparsity:
        yield "--sparsity=enable"
    if options.hardware_compatibility != "none":
        yield f"--hardwareCompatibilityLevel={_LEVELS[options.hardware_compatibility]}"
    if options.dla_core is not None:
        yield f"--useDLACore={options.dla_core}"
    yield from (f"--staticPlugins={name}" for name in options.plugins)
