"""What people type who come from other tools: option names that mean the same here, and advice for those that do not.

Sources: ``trtexec --help`` (TensorRT 10), ``polygraphy convert --help``, Model Optimizer's
``modelopt.onnx.quantization``, onnxruntime's ``quantize_static``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

#: Their name -> ours; the values are written alike.
ALIASES: Mapping[str, str] = {
    "--saveEngine": "--out",
    "--output_path": "--out",
    "--output": "--out",
    "--minShapes": "--min-shapes",
    "--optShapes": "--opt-shapes",
    "--maxShapes": "--max-shapes",
    "--trt-min-shapes": "--min-shapes",
    "--trt-opt-shapes": "--opt-shapes",
    "--trt-max-shapes": "--max-shapes",
    "--builderOptimizationLevel": "--opt-level",
    "--builder-optimization-level": "--opt-level",
    "--nodes_to_exclude": "--keep",
    "--nodes-to-exclude": "--keep",
    "--calibration_data_path": "--calib-data",
    "--calibration_method": "--calib-method",
    "--calibration-data": "--calib-data",
    "--versionCompatible": "--version-compatible",
    "--hardwareCompatibilityLevel": "--hardware-compatibility",
    "--excludeLeanRuntime": "--exclude-lean-runtime",
    "--allowWeightStreaming": "--weight-streaming",
    "--useDLACore": "--dla-core",
    "--allowGPUFallback": "--gpu-fallback",
    "--maxAuxStreams": "--max-aux-streams",
    "--warmUp": "--warmup",
    "--stripWeights": "--strip-weights",
    "--strip-plan": "--strip-weights",
}

#: Their name -> what to do here.
ADVICE: Mapping[str, str] = {
    "--onnx": "the model is an argument: trtpipe build model.onnx -o OUT",
    "--onnx_path": "the model is an argument: trtpipe build model.onnx --int8 -o OUT",
    "--loadEngine": "measure an engine with trtpipe measure ENGINE",
    "--stronglyTyped": "leave it out: every engine is strongly typed",
    "--strongly-typed": "leave it out: every engine is strongly typed",
    "--memPoolSize": "write --workspace 4096M",
    "--pool-limit": "write --workspace 4096M",
    "--precision": "write --fp16, --int8, --fp8 or --best",
    "--quantize_mode": "write --int8 or --fp8",
    "--calib_cache": "write trtpipe calibrate MODEL --import-trt-cache CACHE",
    "--calibration-cache": "write trtpipe calibrate MODEL --import-trt-cache CACHE",
    "--input-shapes": "write --shapes INPUT:1x3x224x224",
    "--data-loader-script": "write --calib-data FILE.py:FUNCTION; the function yields feeds",
    "--op_types_to_exclude": "name the nodes: --keep PATTERN; trtpipe inspect MODEL lists them",
    "--layerPrecisions": "name the layers to keep in higher precision: --keep PATTERN",
    "--precisionConstraints": "leave it out: a layer's precision is in the graph, and engines are strongly typed",
    "--timingCacheFile": "write timing_cache under [build] in a profile",
    "--useCudaGraph": "leave it out: cuda_graph under [latency] in a profile is true by default",
    "--noDataTransfers": "write transfers = false under [latency] in a profile",
    "--dumpLayerInfo": "trtpipe inspect ENGINE lists the layers, and trtpipe report OUT draws them",
    "--dumpProfile": "trtpipe report OUT draws the layers as the builder reports them",
    "--exportLayerInfo": "trtpipe inspect ENGINE --json lists the layers",
}


def translated(words: Sequence[str], known: Iterable[str]) -> list[str]:
    """The words of a command line with other tools' names as ours, where the command has that option.

    Example:
        >>> translated(["m.onnx", "--minShapes=x:1x3"], ["--min-shapes"])
        ['m.onnx', '--min-shapes=x:1x3']
    """
    ours = set(known)
    found: list[str] = []
    for position, word in enumerate(words):
        if word == "--":
            return [*found, *words[position:]]
        name, equals, value = word.partition("=")
        alias = ALIASES.get(name)
        found.append(f"{alias}{equals}{value}" if alias in ours and name not in ours else word)
    return found
