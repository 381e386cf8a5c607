from __future__ import annotations

import numpy as np
import pytest

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.data.subsample import spread_feeds
from trtpipe.data.synthetic import RandomDataset

CONTRACT = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 100)),), outputs=())


@pytest.mark.parametrize(("total", "most", "step"), [(1, 8, 1), (8, 8, 1), (9, 8, 2), (17, 8, 4), (100, 8, 16)])
def test_evenly_spread(total: int, most: int, step: int) -> None:
    dataset = RandomDataset(CONTRACT, {}, total)
    feeds = spread_feeds(dataset, most, 1 << 30)
    every = [sample.feed["x"] for sample in dataset]
    assert len(feeds) <= most
    for found, wanted in zip(feeds, every[::step], strict=True):
        np.testing.assert_array_equal(found["x"], wanted)


def test_bytes_are_a_limit_too_but_one_feed_always_comes() -> None:
    dataset = RandomDataset(CONTRACT, {}, 40)
    assert len(spread_feeds(dataset, 64, 10 * 400)) == 10
    assert len(spread_feeds(dataset, 64, 1)) == 1
