"""Arrays in shared memory: what one side packs, the other unpacks, however it lies in memory."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.isolation.shared_arrays import SharedMemory

PIXELS = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)


@pytest.mark.parametrize(
    "value",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1)[None],
        np.asfortranarray(PIXELS),
        PIXELS[::-1, :, ::2],
        np.broadcast_to(np.float32([1, 2, 3]), (4, 3)),
        np.empty((0, 3), np.int64),
        np.array(7, np.uint8),
        np.array([["a", "bc"]]),
    ],
    ids=["contiguous", "transposed", "fortran", "reversed", "broadcast", "empty", "scalar", "text"],
)
@pytest.mark.parametrize("copy", [True, False])
def test_values_shape_and_type_arrive(value: np.ndarray, copy: bool) -> None:
    memory = SharedMemory.new()
    [arrays] = memory.pack([{"x": value, "after": PIXELS}])
    found = memory.unpack(arrays, copy=copy)
    assert found["x"].shape == value.shape
    assert found["x"].dtype == (object if value.dtype.kind == "U" else value.dtype)
    np.testing.assert_array_equal(found["x"], value)
    np.testing.assert_array_equal(found["after"], PIXELS)
    del found
    memory.close()


def test_transposed_values_are_written_as_they_lie() -> None:
    memory = SharedMemory.new()
    [arrays] = memory.pack([{"x": PIXELS.transpose(2, 0, 1)}])
    view = memory.unpack(arrays, copy=False)["x"]
    assert view.strides == PIXELS.transpose(2, 0, 1).strides
    assert memory.unpack(arrays, copy=True)["x"].flags.c_contiguous
    del view
    memory.close()


@pytest.mark.parametrize("axes", [(0, 1), (0, 1, 3), (0, 0, 1), (-1, 0, 1), ()])
def test_a_message_with_other_axes_is_refused(axes: tuple[int, ...]) -> None:
    memory = SharedMemory.new()
    [[(name, kind, shape, offset, _)]] = memory.pack([{"x": PIXELS}])
    with pytest.raises(ValueError, match="axes"):
        memory.unpack([(name, kind, shape, offset, axes)], copy=True)
    memory.close()
