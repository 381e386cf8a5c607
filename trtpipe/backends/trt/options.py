"""Builder options: their names, their effect in each TensorRT flavor, and setting them on the builder configuration.

The effect of an option in TensorRT-RTX was found by building with versions 1.5 to 1.7 on a machine without a GPU: an
option that leaves the plan equal, byte for byte, has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtpipe.backends.base import Refusal
from trtpipe.config.target import DLA
from trtpipe.errors import BuildError

if TYPE_CHECKING:
    from trtpipe.backends.trt.flavor import Flavor
    from trtpipe.config.profile import BuildSettings
    from trtpipe.config.target import Target


@dataclass(frozen=True)
class Option:
    """One builder option.

    Attributes:
        name: its key in a profile's ``[build]`` table.
        trtexec: trtexec's option.
        ignored: why TensorRT-RTX ignores it; empty if it has an effect, or is refused.
        refused: why TensorRT-RTX cannot build with it; empty if it can.
        remedy: what to do instead.
    """

    name: str
    trtexec: str
    ignored: str = ""
    refused: str = ""
    remedy: str = ""


_JIT = "kernels are selected on the deployment GPU"
_NO_GPU_REFIT = "refittable and weight-stripped engines are built on a GPU only, and this machine has none"
_GPUS_ONLY, _JETSON = "it builds for GPUs only", "use --backend tensorrt on a Jetson Orin"
_ON_A_GPU = "leave it out, or build on a machine with a GPU"

OPTIONS: tuple[Option, ...] = (
    Option("workspace", "--memPoolSize=workspace:N"),
    Option("opt_level", "--builderOptimizationLevel=N", ignored=_JIT),
    Option("timing_cache", "--timingCacheFile=FILE", ignored=_JIT),
    Option("version_compatible", "--versionCompatible"),
    Option("exclude_lean_runtime", "--excludeLeanRuntime"),
    Option(
        "hardware_compatibility",
        "--hardwareCompatibilityLevel=LEVEL",
        refused="its engines run on the named targets only",
        remedy="name every GPU with --target",
    ),
    Option("weight_streaming", "--allowWeightStreaming"),
    Option("strip_weights", "--stripWeights", refused=_NO_GPU_REFIT, remedy=_ON_A_GPU),
    Option("refit", "--refit", refused=_NO_GPU_REFIT, remedy=_ON_A_GPU),
    Option("sparsity", "--sparsity=enable", ignored=_JIT),
    Option("dla_core", "--useDLACore=N", refused=_GPUS_ONLY, remedy=_JETSON),
    Option("gpu_fallback", "--allowGPUFallback", refused=_GPUS_ONLY, remedy=_JETSON),
    Option("max_aux_streams", "--maxAuxStreams=N", ignored="streams are scheduled on the deployment GPU"),
    Option("plugins", "--staticPlugins=FILE"),
)

#: Options that are builder flags.
_FLAGS = {
    "version_compatible": "VERSION_COMPATIBLE",
    "exclude_lean_runtime": "EXCLUDE_LEAN_RUNTIME",
    "weight_streaming": "WEIGHT_STREAMING",
    "strip_weights": "STRIP_PLAN",
    "refit": "REFIT",
    "sparsity": "SPARSE_WEIGHTS",
    "gpu_fallback": "GPU_FALLBACK",
}
_LEVELS = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


def refuse_options(
    options: BuildSettings, flavor: Flavor, version: str, target: Target, *, driver: bool
) -> Refusal | None:
    """Why ``flavor`` cannot build for ``target`` with these options, as far as is known without a build.

    Args:
        version: of the flavor.
        driver: whether this machine has a CUDA driver.
    """
    if flavor == "tensorrt-rtx":
        return _refused_by_rtx(options, driver=driver)
    if options.dla_core is None:
        return None
    if not DLA.includes(version):
        return Refusal(f"TensorRT {version} does not support DLA: {DLA} do", "leave dla_core out, or use one of these")
    if not target.dla:
        return Refusal(f"{target} ({target.family}) has no DLA", "leave dla_core out, or use --target orin")
    return None


def ignored_options(options: BuildSettings, flavor: Flavor) -> tuple[str, ...]:
    """A note for every option that was given and has no effect in ``flavor``."""
    if flavor == "tensorrt":
        return ()
    return tuple(
        f"{option.name} has no effect in TensorRT-RTX: {option.ignored}"
        for option in OPTIONS
        if option.ignored and is_given(options, option.name)
    )


def is_given(options: BuildSettings, name: str) -> bool:
    """Whether an option differs from its default."""
    return bool(getattr(options, name) != type(options).model_fields[name].default)


def apply_options(trt: Any, config: Any, options: BuildSettings, flavor: Flavor) -> None:
    """Set the options that are given and have an effect, except plug-ins and the timing cache.

    Raises:
        BuildError: this version lacks an option, or does not take its value.
    """
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    ignored = {option.name for option in OPTIONS if option.ignored} if flavor == "tensorrt-rtx" else set()
    if options.opt_level is not None and "opt_level" not in ignored:
        config.builder_optimization_level = options.opt_level
    if options.max_aux_streams is not None and "max_aux_streams" not in ignored:
        config.max_aux_streams = options.max_aux_streams
    for name, flag in flag_names(options):
        if name not in ignored:
            config.set_flag(_member(trt, trt.BuilderFlag, flag, name))
    if level := hardware_level(options):
        found = _member(trt, trt.HardwareCompatibilityLevel, level, "hardware_compatibility")
        config.hardware_compatibility_level = found
    if options.dla_core is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla_core


def flag_names(options: BuildSettings) -> tuple[tuple[str, str], ...]:
    """The options that are builder flags: their names here and in TensorRT."""
    given = [(name, flag) for name, flag in _FLAGS.items() if getattr(options, name)]
    if options.strip_weights and not options.refit:  # as trtexec: the same weights are put back
        given.append(("strip_weights", "REFIT_IDENTICAL"))
    return tuple(given)


def hardware_level(options: BuildSettings) -> str:
    """TensorRT's name of the hardware compatibility level; empty for none."""
    return _LEVELS.get(options.hardware_compatibility, "")


def load_plugins(trt: Any, options: BuildSettings) -> None:
    """Load the profile's plug-in libraries into this process.

    Raises:
        BuildError: one cannot be loaded.
    """
    for path in options.plugins:
        reason = ""
        try:
            loaded = trt.get_plugin_registry().load_library(path)
        except RuntimeError as error:
            loaded, reason = None, f": {error}"
        if loaded is None:
            raise BuildError(
                f"the plug-in library {path} cannot be loaded{reason}",
                "give a library that was built for this TensorRT, and whose own libraries are found",
            )


def _refused_by_rtx(options: BuildSettings, *, driver: bool) -> Refusal | None:
    for option in OPTIONS:
        needs_gpu = option.refused == _NO_GPU_REFIT
        if option.refused and is_given(options, option.name) and not (needs_gpu and driver):
            return Refusal(f"TensorRT-RTX does not build with {option.name}: {option.refused}", option.remedy)
    if options.version_compatible and not options.exclude_lean_runtime:
        return Refusal(
            "TensorRT-RTX does not build with version_compatible alone: it has no lean runtime to include",
            "add exclude_lean_runtime",
        )
    return None


def _member(trt: Any, kind: Any, name: str, option: str) -> Any:
    """A member of a TensorRT enum that older versions lack, such as SAME_COMPUTE_CAPABILITY in 10.3."""
    found = getattr(kind, name, None)
    if found is None:
        raise BuildError(f"TensorRT {trt.__version__} has no {option}", f"leave {option} out, or use a newer version")
    return found
