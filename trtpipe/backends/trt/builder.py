"""Builds an engine with TensorRT 10.3 or newer, TensorRT 11 or TensorRT-RTX, all in the same way.

The graph determines precision (Q/DQ pairs and casts), so every network is strongly typed and no precision flag is set.
The ``trt`` module is an argument: this file imports none.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.backends.engine_file import check_rtx_plan
from trtpipe.backends.trt.dtypes import dtype_name
from trtpipe.backends.trt.errors import Log, build_error, parse_error
from trtpipe.backends.trt.flavor import load
from trtpipe.backends.trt.inspector import read_layers
from trtpipe.backends.trt.options import apply_options, load_plugins
from trtpipe.backends.trt.request import BuildMessage
from trtpipe.backends.trt.shapes import NetworkInput, check_profiles, profiles_in_force
from trtpipe.backends.trt.timing_cache import keep_timings, use_timings
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError, HostError, InputError
from trtpipe.isolation.worker import Report
from trtpipe.preflight.onnx_io import named_dimension, read_proto

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx


def build_task(request: BuildMessage, report: Report) -> EngineRecord:
    """Build one engine (in the worker process)."""
    if request.device:
        os.putenv("CUDA_VISIBLE_DEVICES", request.device)  # before the CUDA driver reads it
    return build(load(request.flavor), request, report)


def build(trt: Any, request: BuildMessage, report: Report) -> EngineRecord:
    """Parse, build and write one engine (in the worker process).

    Raises:
        BuildError: the graph cannot be parsed or built; the message names the node if TensorRT does.
        InputError: the shape ranges do not fit the model.
        HostError: TensorRT does not start on this machine.
        OSError: the plan cannot be written.
    """
    started = time.monotonic()
    log = Log(trt)
    builder = new_builder(trt, log, request.flavor)
    load_plugins(trt, request.options)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    report("parsing", 0, None)
    parse(trt, network, log, request.model)
    return build_network(trt, builder, network, log, request, report, started)


def build_network(
    trt: Any, builder: Any, network: Any, log: Log, request: BuildMessage, report: Report, started: float
) -> EngineRecord:
    """Build and write the engine of a complete network (in the worker process).

    Args:
        log: whose logger the builder uses.
        started: ``time.monotonic()`` when work on the network began.

    Raises:
        BuildError, InputError, OSError: as for ``build``.
    """
    name = Path(request.model).name
    inputs = _network_inputs(network)
    check_profiles(inputs, request.shapes, name)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the log then lists the layers of the engine
    config.progress_monitor = _progress_monitor(trt, report)
    apply_options(trt, config, request.options, request.flavor)
    if request.flavor == "tensorrt-rtx":
        name_targets(trt, config, request.targets)
    _add_profiles(builder, config, inputs, request, log)
    use_timings(config, request.timings)
    if not _write_plan(trt, builder, network, config, Path(request.plan)):
        raise build_error(log, name, request.wanted)
    keep_timings(config, request.timings)
    unchecked = check_rtx_plan(Path(request.plan), request.targets) if request.flavor == "tensorrt-rtx" else ()
    engine = read_layers(trt, network, log, Path(request.plan), _free_length(inputs, request), opens=request.opens)
    return EngineRecord(
        flavor=request.flavor,
        version=trt.__version__,
        target=request.targets[0],
        targets=request.targets,
        profiles=profiles_in_force(inputs, request.shapes),
        io=IOContract(
            inputs=tuple(entry.spec for entry in inputs),
            outputs=tuple(_spec(network.get_output(index)) for index in range(network.num_outputs)),
        ),
        layers=engine and len(engine.kernels),
        precisions=engine.precisions if engine else {},
        weight_bytes=log.sizes.get("Weights"),
        activation_bytes=log.sizes.get("Activation"),
        report=engine,
        build_seconds=time.monotonic() - started,
        warnings=(*log.first_warnings(), *unchecked),
    )


def new_builder(trt: Any, log: Log, flavor: str) -> Any:
    """A builder that logs to ``log``.

    Raises:
        HostError: TensorRT does not start on this machine.
    """
    try:
        trt.init_libnvinfer_plugins(log.logger, "")
        return trt.Builder(log.logger)
    except (TypeError, RuntimeError) as error:  # pybind raises them when the library returns no object
        reason = "; ".join(log.errors) or str(error)
        raise HostError(
            f"{flavor} does not start here: {reason}",
            "check the NVIDIA driver; without a GPU use --backend tensorrt-rtx",
        ) from error


def parse(trt: Any, network: Any, log: Log, model: str) -> None:
    """Parse the model at a path into an empty network.

    Raises:
        BuildError: the parser refuses it; the message names the nodes.
    """
    parser = trt.OnnxParser(network, log.logger)
    renamed = _without_meaningless_names(Path(model))
    if not (parser.parse_from_file(model) if renamed is None else parser.parse(renamed, model)):
        raise parse_error(parser, log, Path(model).name)
    if network.num_outputs == 0:  # the parser accepts an empty file
        raise BuildError(f"{Path(model).name}: holds no graph", "give an .onnx file as an exporter writes it")
    attention = getattr(trt.LayerType, "ATTENTION_INPUT", None)  # 10.3 lacks it
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if attention is not None and layer.type == attention:
            layer.__class__ = trt.IAttentionInputLayer
            _let_decompose(layer)


def _let_decompose(boundary: Any) -> None:
    """Allow an attention to be built from several kernels; by default it needs a fused one."""
    boundary.attention.decomposable = True


def _without_meaningless_names(model: Path) -> bytes | None:
    """The model without dimension names that only mean "any size"; ``None`` if it has none.

    TensorRT requires dimensions of one name to be equal.
    """
    import onnx

    try:
        if not _meaningless(read_proto(model)):
            return None
    except InputError:  # the parser reports what is wrong
        return None
    proto = onnx.load(model, load_external_data=False)
    for dim in _meaningless(proto):
        dim.ClearField("dim_param")
    return bytes(proto.SerializeToString())


def _meaningless(proto: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    dims = [dim for value in values for dim in value.type.tensor_type.shape.dim]
    return [dim for dim in dims if dim.dim_param and named_dimension(dim.dim_param) is None]


def _network_inputs(network: Any) -> tuple[NetworkInput, ...]:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    return tuple(NetworkInput(_spec(tensor), tensor.is_shape_tensor) for tensor in tensors)


def name_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    """Name the compute capabilities to build for: without them TensorRT-RTX builds for the GPU that is here."""
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = getattr(trt.ComputeCapability, target.upper(), None)  # every version knows other GPUs
        if capability is None or not config.set_compute_capability(capability, index):
            raise BuildError(f"TensorRT-RTX {trt.__version__} builds no engines for {target}", "choose another target")


def _add_profiles(builder: Any, config: Any, inputs: Sequence[NetworkInput], request: BuildMessage, log: Log) -> None:
    values = {entry.spec.name for entry in inputs if entry.holds_shape}
    for shapes in profiles_in_force(inputs, request.shapes):
        profile = builder.create_optimization_profile()
        for name, given in shapes.items():
            place = profile.set_shape_input if name in values else profile.set_shape
            place(name, given.min, given.opt, given.max)
        if config.add_optimization_profile(profile) < 0:
            raise build_error(log, Path(request.model).name, request.wanted)


def _write_plan(trt: Any, builder: Any, network: Any, config: Any, plan: Path) -> int:
    """Build and write the engine; returns the bytes written, 0 if the build failed."""
    with plan.open("wb") as stream:
        if not hasattr(builder, "build_serialized_network_to_stream"):  # 10.3 lacks it
            memory = builder.build_serialized_network(network, config)
            return 0 if memory is None else stream.write(memoryview(memory))
        writer = _stream_writer(trt, stream)
        built = builder.build_serialized_network_to_stream(network, config, writer)
        if writer.error is not None:  # TensorRT itself ignores it
            raise writer.error
        return int(writer.written) if built else 0


def _free_length(inputs: Sequence[NetworkInput], request: BuildMessage) -> int:
    """The smallest opt length of a dynamic dimension in the first optimization profile; 1 if there is none."""
    shapes = request.shapes[0] if request.shapes else {}
    specs = [entry.spec for entry in inputs if entry.spec.name in shapes and not entry.holds_shape]
    pairs = (pair for spec in specs for pair in zip(spec.shape or (), shapes[spec.name].opt, strict=False))
    return min((length for dim, length in pairs if not isinstance(dim, int)), default=1)


def _stream_writer(trt: Any, stream: IO[bytes]) -> Any:
    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.written = 0
            self.error: OSError | None = None

        def write(self, data: bytes) -> int:
            try:
                count = stream.write(data)
            except OSError as error:
                self.error = error
                return 0
            self.written += count
            return count

    return Writer()


def _progress_monitor(trt: Any, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(phase_name, step + 1, self._steps.get(phase_name))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _spec(tensor: Any) -> TensorSpec:
    dims = tuple(tensor.shape)
    shape = tuple(dim if dim >= 0 else tensor.get_dimension_name(axis) or None for axis, dim in enumerate(dims))
    return TensorSpec(name=tensor.name, dtype=dtype_name(tensor.dtype), shape=shape)
