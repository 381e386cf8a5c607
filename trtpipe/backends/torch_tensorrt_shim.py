"""What lets torch-tensorrt-rtx build on a machine without a GPU, where PyTorch has no CUDA.

The package asks about the current GPU while it is imported and while it converts, and loads the engine it has just
built. Here such questions are answered for the target, its C++ runtime (which needs libtorch_cuda) is left out, as the
package itself does where the file is missing, and the engine is never loaded. Nothing is emulated: the builder is the
real one, and it needs no GPU. Only ever called in a child process that does nothing else.
"""

from __future__ import annotations

import os
import types
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Only said, never used: memory that the converter compares with what is free.
_MEMORY = 24 << 30


@contextmanager
def without_gpu(capability: tuple[int, int]) -> Iterator[None]:
    """Answer for a GPU of ``capability`` for the rest of this process; import the package inside."""
    answers: dict[str, Any] = {
        "get_device_capability": lambda *_: capability,
        "current_device": lambda: 0,
        "get_device_properties": lambda *_: types.SimpleNamespace(
            name="build target", major=capability[0], minor=capability[1], total_memory=_MEMORY,
            multi_processor_count=1, uuid="build target",
        ),
        "mem_get_info": lambda *_: (_MEMORY, _MEMORY),
        "device_count": lambda: 1,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    if not hasattr(torch._C, "_CudaDeviceProperties"):  # named in an annotation
        setattr(torch._C, "_CudaDeviceProperties", type("_CudaDeviceProperties", (), {}))  # noqa: B010
    real = os.path.isfile

    def isfile(path: Any) -> bool:
        return "libtorchtrt" not in os.fspath(path) and real(path)

    os.path.isfile = isfile
    try:
        yield
    finally:
        os.path.isfile = real
