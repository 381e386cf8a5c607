"""Arrays in the memory of a GPU that a model gave, for other libraries to take."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from trtpipe.backends import dlpack

if TYPE_CHECKING:
    from trtpipe.backends.trt.cudart import Cudart


class DeviceArray:
    """An output in the memory of the GPU, for any library that takes DLPack (``torch.from_dlpack(array)``).

    Its memory is its own and lasts as long as it, or what took it over; the work that computes it is done.

    Attributes:
        shape: of the array.
        dtype: numpy's name of the type.
    """

    def __init__(self, cuda: Cudart, device: int, shape: tuple[int, ...], dtype: str, size: int) -> None:
        self.shape = shape
        self.dtype = dtype
        self._memory = _Memory(cuda, device, size)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A ``dltensor`` capsule; there is nothing for ``stream`` to wait for."""
        if copy or (dl_device is not None and dl_device != self.__dlpack_device__()):
            raise BufferError("the array stays on its GPU, and is not copied")
        return dlpack.exported(self.address, self.shape, self.dtype, self.__dlpack_device__(), self._memory)

    def __dlpack_device__(self) -> tuple[int, int]:
        """CUDA, and the number of the GPU."""
        return dlpack.CUDA, self._memory.device

    @property
    def address(self) -> int:
        """Of the first element; elements are contiguous."""
        return self._memory.address


class _Memory:
    """A piece of a GPU's memory, given back when nobody has it any more."""

    def __init__(self, cuda: Cudart, device: int, size: int) -> None:
        self.device = device
        self._stack = ExitStack()
        self.address = cuda.malloc(size, self._stack)

    def __del__(self) -> None:
        self._stack.close()
