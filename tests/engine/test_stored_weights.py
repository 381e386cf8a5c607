"""Constants of a graph, looked for in the bytes of a plan."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.engine.stored_weights import stored_weights


def weights(*shape: int, dtype: str = "float16", seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if dtype == "int8":
        return generator.integers(-127, 128, shape).astype(np.int8)
    return generator.normal(size=shape).astype(dtype)


@pytest.fixture
def plan(tmp_path):
    def write(content: bytes, lead: int = 1004) -> object:
        path = tmp_path / "engine.plan"
        noise = np.random.default_rng(9).bytes(lead)
        path.write_bytes(noise + content + noise)
        return path

    return write


class TestStored:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
    @pytest.mark.parametrize("lead", [1000, 1004, 1016])
    def test_plain(self, plan, dtype, lead):
        kernel = weights(8, 4, 3, 3, dtype=dtype)
        assert stored_weights(plan(kernel.tobytes(), lead), {"w": kernel}) == {"w"}

    def test_with_the_channels_last(self, plan):
        kernel = weights(8, 4, 3, 3)
        content = np.ascontiguousarray(kernel.transpose(0, 2, 3, 1)).tobytes()
        assert stored_weights(plan(content), {"w": kernel}) == {"w"}

    @pytest.mark.parametrize(("channels", "padded"), [(1, 2), (3, 4), (3, 8), (5, 16), (24, 32)])
    def test_with_channels_padded(self, plan, channels, padded):
        kernel = weights(8, channels, 3, 3, dtype="int8")
        wide = np.zeros((8, 3, 3, padded), np.int8)
        wide[..., :channels] = kernel.transpose(0, 2, 3, 1)
        assert stored_weights(plan(wide.tobytes()), {"w": kernel}) == {"w"}

    def test_transposed(self, plan):
        matrix = weights(16, 10)
        assert stored_weights(plan(np.ascontiguousarray(matrix.T).tobytes()), {"w": matrix}) == {"w"}

    def test_one_value_that_differs_is_another_weight(self, plan):
        kernel = weights(8, 4, 3, 3)
        path = plan(kernel.tobytes())
        for index in [(0, 0, 0, 0), (3, 1, 2, 0), (7, 3, 2, 2)]:
            other = kernel.copy()
            other[index] = np.nextafter(other[index], np.float16(100))
            assert stored_weights(path, {"w": other}) == frozenset()

    def test_cut_off_at_the_end(self, plan):
        kernel = weights(8, 4, 3, 3)
        path = plan(kernel.tobytes())
        path.write_bytes(path.read_bytes()[: 1004 + kernel.nbytes - 2])
        assert stored_weights(path, {"w": kernel}) == frozenset()

    def test_what_tells_nothing_is_left_out(self, plan):
        small, zeros = weights(3), np.zeros(64, np.float16)
        assert stored_weights(plan(small.tobytes() + zeros.tobytes()), {"small": small, "zeros": zeros}) == frozenset()

    def test_values_that_repeat_at_the_start(self, plan):
        ramp = np.concatenate([np.ones(20, np.float32), np.arange(12, dtype=np.float32)])
        assert stored_weights(plan(ramp.tobytes()), {"w": ramp}) == {"w"}

    def test_several_and_none(self, plan):
        found = {str(seed): weights(4, 4, seed=seed) for seed in range(5)}
        content = b"".join(found[name].tobytes() for name in ("1", "3"))
        assert stored_weights(plan(content), found) == {"1", "3"}
        assert stored_weights(plan(content), {}) == frozenset()
