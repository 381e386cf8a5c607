"""Runs an engine on the GPU of this machine with Polygraphy's TensorRT runner.

A process can use Polygraphy with one TensorRT flavor: the one at the first import of its TensorRT module.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trtpipe.artifact import TensorSpec
from trtpipe.backends.base import OpenRunner
from trtpipe.backends.gpu import gpus
from trtpipe.backends.trt.cudart import LIBRARY_REMEDY, load
from trtpipe.backends.trt.dtypes import dtype_name
from trtpipe.backends.trt.errors import Log, tidy
from trtpipe.backends.trt.nvml import read_state
from trtpipe.backends.trt.timer import opened
from trtpipe.errors import HostError, InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from trtpipe.artifact import Feed
    from trtpipe.backends.timing import DeviceRunner, DeviceState, Timer


@contextmanager
def open_engine(trt: Any, plan: Path, flavor: str) -> Iterator[EngineRunner]:
    """Load the plan onto the GPU and make it ready to infer.

    Raises:
        HostError: the plan does not load on this machine, or this process has opened one of the other flavor.
    """
    _bind_polygraphy(trt, rtx=flavor == "tensorrt-rtx")
    from polygraphy.backend.trt import TrtRunner
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    log = Log(trt)
    trt.init_libnvinfer_plugins(log.logger, "")
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise _not_here(plan, log)
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        runner = TrtRunner(engine)
        try:
            runner.activate()
        except PolygraphyException as error:
            raise _not_here(plan, log) from error
        except OSError as error:  # Polygraphy finds no libcudart
            raise HostError(f"the CUDA runtime library cannot be loaded: {error}", LIBRARY_REMEDY) from error
        try:
            yield EngineRunner(trt, engine, runner, plan.name, flavor)
        finally:
            runner.deactivate()


class EngineRunner(OpenRunner):
    """An engine that is ready to infer; also implements ``DeviceRunner``. A dynamic dimension is ``None``."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, trt: Any, engine: Any, runner: Any, name: str, flavor: str) -> None:
        self._trt = trt
        self._engine = engine
        self._runner = runner
        self._name = name
        self._flavor = flavor
        self._profile = 0
        specs = [self._spec(engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]
        mode = trt.TensorIOMode.INPUT
        self.inputs = tuple(spec for spec in specs if engine.get_tensor_mode(spec.name) == mode)
        self.outputs = tuple(spec for spec in specs if engine.get_tensor_mode(spec.name) != mode)

    @property
    def device(self) -> str:
        """Flavor, version and GPU: ``tensorrt 11.4.0 on NVIDIA L4``.

        CUDA chooses among different GPUs; if NVML does not report which, all are named.
        """
        names = list(dict.fromkeys(gpu.name for gpu in gpus()))
        if len(names) > 1 and (state := self.state()) is not None:
            names = [state.name]
        return f"{self._flavor} {self._trt.__version__} on {' or '.join(names) or 'GPU'}"

    @property
    def gpu(self) -> DeviceRunner:
        return self

    @property
    def opt_shapes(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        return tuple(
            {spec.name: self._opt_shape(spec, index) for spec in self.inputs}
            for index in range(self._engine.num_optimization_profiles)
        )

    def infer(self, feed: Feed) -> Feed:
        """Run once, with the first optimization profile that the feed's shapes fit.

        Raises:
            InputError: ``feed`` fits no profile, or misses an input.
            StageError: TensorRT fails at run time.
        """
        import numpy as np
        from polygraphy.exception import PolygraphyException

        feed, index = self._admitted(feed)
        if index != self._profile:
            self._runner.set_profile(index)
            self._profile = index
        try:
            found = self._runner.infer(feed)
        except PolygraphyException as error:
            raise StageError(
                f"{self._name}: TensorRT fails on this feed: {tidy(str(error))}", "check the feed's types and values"
            ) from error
        return {spec.name: np.array(found[spec.name]) for spec in self.outputs}  # Polygraphy reuses its buffers

    def timer(self, feed: Feed, *, cuda_graph: bool, transfers: bool) -> AbstractContextManager[Timer]:
        feed, index = self._admitted(feed)
        for spec in self.inputs:
            if feed[spec.name].dtype.name != spec.dtype:  # its bytes are copied as they are
                raise InputError(
                    f"{self._name}: input {spec.name!r} is {spec.dtype}, the feed has {feed[spec.name].dtype.name}",
                    "feed the engine's types",
                )
        cuda = load()
        return opened(self._trt, self._engine, cuda, feed, index, cuda_graph=cuda_graph, transfers=transfers)

    def state(self) -> DeviceState | None:
        return read_state(load().bus_id())

    def _admitted(self, feed: Feed) -> tuple[Feed, int]:
        """``feed`` as contiguous arrays, and the first optimization profile that its shapes fit."""
        import numpy as np

        wanted = {spec.name for spec in self.inputs}
        if feed.keys() != wanted:
            raise InputError(
                f"the feed names {sorted(feed)}, the engine's inputs are {sorted(wanted)}", "feed every input"
            )
        for index in range(self._engine.num_optimization_profiles):
            if all(self._fits(name, value.shape, index) for name, value in feed.items()):
                return {
                    name: np.asarray(value, order="C") for name, value in feed.items()
                }, index  # scalars stay scalars
        shapes = ", ".join(f"{name}:{'x'.join(map(str, value.shape))}" for name, value in feed.items())
        raise InputError(
            f"{self._name}: no optimization profile admits {shapes}",
            "feed shapes inside the ranges the engine was built for, or build it with wider ones",
        )

    def _opt_shape(self, spec: TensorSpec, index: int) -> tuple[int, ...]:
        if self._engine.is_shape_inference_io(spec.name):  # its profile holds values
            return tuple(self._engine.get_tensor_shape(spec.name))
        return tuple(self._engine.get_tensor_profile_shape(spec.name, index)[1])

    def _fits(self, name: str, shape: tuple[int, ...], index: int) -> bool:
        if self._engine.is_shape_inference_io(name):
            return True
        low, _, high = (tuple(dims) for dims in self._engine.get_tensor_profile_shape(name, index))
        return len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple(dim if dim >= 0 else None for dim in self._engine.get_tensor_shape(name))
        return TensorSpec(name=name, dtype=dtype_name(self._engine.get_tensor_dtype(name)), shape=shape)


def _bind_polygraphy(trt: Any, *, rtx: bool) -> None:
    import polygraphy.config

    polygraphy.config.USE_TENSORRT_RTX = rtx
    from polygraphy.backend.trt import util

    if util.trt.Runtime is not trt.Runtime:
        raise HostError(
            "this process has already opened an engine of the other TensorRT flavor",
            "open engines of tensorrt and tensorrt-rtx in separate processes",
        )


def _not_here(plan: Path, log: Log) -> HostError:
    reason = "; ".join(tidy(message) for message in log.errors[:2]) or "no reason given"
    return HostError(
        f"{plan.name}: cannot be opened on this machine: {reason}",
        "an engine runs on the GPU and the TensorRT version it was built for: build it for this machine",
    )
