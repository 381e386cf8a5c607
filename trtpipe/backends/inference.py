"""Engines for applications: what runs them, and how one is opened on a GPU of this machine.

Nothing here needs more than numpy and a TensorRT flavor.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from trtpipe.errors import HostError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from trtpipe.backends.device_array import DeviceArray
    from trtpipe.backends.dlpack import DeviceTensor


class Session(Protocol):
    """A model that is ready to run.

    Attributes:
        stream: the CUDA stream that it runs in; 0 on the CPU.
    """

    @property
    def stream(self) -> int: ...

    def run(
        self, feed: Mapping[str, np.ndarray | DeviceTensor], *, on_device: bool = False
    ) -> dict[str, np.ndarray] | dict[str, DeviceArray]:
        """Run once.

        Args:
            feed: for every input an array of its type.
            on_device: whether the outputs stay on the GPU.

        Raises:
            InputError: the model does not run on these shapes or values.
            StageError: it fails.
        """


def numpy_type(name: str) -> np.dtype:
    """The numpy type of that name, those of ml_dtypes included.

    Raises:
        HostError: it needs ml_dtypes, which is not installed.
    """
    from trtpipe.backends.trt.dtypes import numpy_dtype

    return numpy_dtype(name)


@dataclass(frozen=True)
class EngineBytes:
    """An engine to open.

    Attributes:
        name: for errors.
        content: the plan.
        plugins: libraries to load first.
    """

    name: str
    flavor: Literal["tensorrt", "tensorrt-rtx"]
    content: bytes
    plugins: Sequence[Path] = ()


def device_capabilities() -> tuple[tuple[int, int], ...]:
    """The compute capability of each GPU of this machine, (major, minor).

    Raises:
        HostError: there is no driver, no GPU, or no CUDA runtime library.
    """
    from trtpipe.backends.gpu import has_driver
    from trtpipe.backends.trt.cudart import find

    if not has_driver():
        raise HostError("this machine has no CUDA driver", 'use a machine with an NVIDIA GPU, or the device "cpu"')
    try:
        found = find().capabilities()
    except StageError as error:
        raise HostError(f"no GPU can be used: {error.message}", f'{error.remedy}; or use the device "cpu"') from error
    if not found:
        raise HostError("this machine has no NVIDIA GPU", 'use a machine with one, or the device "cpu"')
    return found


@contextmanager
def open_on_gpu(engine: EngineBytes, device: int, *, cuda_graph: bool) -> Iterator[Session]:
    """An engine on a GPU of this machine.

    Raises:
        HostError: the flavor is not installed, or the plan does not load here.
    """
    from trtpipe.backends.trt.cudart import find
    from trtpipe.backends.trt.errors import Log
    from trtpipe.backends.trt.flavor import load
    from trtpipe.backends.trt.session import opened_session

    trt, cuda = load(engine.flavor), find()
    for path in engine.plugins:
        if trt.get_plugin_registry().load_library(str(path)) is None:
            raise HostError(f"the plug-in library {path} cannot be loaded", "give one built for this TensorRT")
    opened = opened_session(trt, cuda, engine.content, engine.name, device, Log(trt), cuda_graph=cuda_graph)
    del engine  # nobody needs the plan's bytes any more
    with opened as session:
        yield session
