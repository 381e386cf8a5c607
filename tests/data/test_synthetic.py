from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.data.synthetic import RandomDataset
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from conftest import MakeContract

    from trtpipe.artifact import IOContract


@pytest.fixture
def model(contract: MakeContract) -> IOContract:
    return contract(
        image=("float32", ("N", 3, "H", 8)), half=("float16", (2,)), ids=("int64", ("N", 50)), mask=("bool", (50,))
    )


def test_values_types_and_shapes(model: IOContract) -> None:
    dataset = RandomDataset(model, {"image": (4, 3, 16, 8)}, samples=5, seed=1)
    samples = list(dataset)
    assert [{n: (v.dtype.name, v.shape) for n, v in sample.feed.items()} for sample in samples] == [
        {
            "image": ("float32", (4, 3, 16, 8)),
            "half": ("float16", (2,)),
            "ids": ("int64", (1, 50)),
            "mask": ("bool", (50,)),
        }
    ] * 5
    images = np.concatenate([sample.feed["image"].ravel() for sample in samples])
    assert 0 <= images.min() < 0.01
    assert 0.99 < images.max() < 1
    # 7680 uniform values: the mean is 0.5 with a deviation of 0.0033.
    assert abs(images.mean() - 0.5) < 0.017
    assert set(np.concatenate([sample.feed["ids"].ravel() for sample in samples]).tolist()) == {0, 1}
    assert (dataset.size, dataset.samples, dataset.seed) == (5, 20, 1)


def test_the_seed_decides_and_the_name_tells(model: IOContract) -> None:
    first, again, other = (RandomDataset(model, {}, 3, seed) for seed in (5, 5, 6))
    assert first.digests() == again.digests() != other.digests()
    for a, b in zip(first, first, strict=True):
        np.testing.assert_array_equal(a.feed["image"], b.feed["image"])
    assert not np.array_equal(*(sample.feed["image"] for sample in list(first)[:2]))
    assert first.name == "synthetic, seeded random (3 feeds, seed 5)"


def test_errors(contract: MakeContract, model: IOContract) -> None:
    with pytest.raises(InputError, match="no input 'imag'") as error:
        RandomDataset(model, {"imag": (1,)}, 1)
    assert "did you mean 'image'?" in error.value.remedy
    for shape in ((1, 3, 8), (1, 4, 8, 8), (-1, 3, 8, 8)):
        with pytest.raises(InputError, match="does not fit input image: float32"):
            RandomDataset(model, {"image": shape}, 1)
    with pytest.raises(InputError, match="rank of input 'x' is unknown"):
        RandomDataset(contract(x=("float32", None)), {}, 1)
    assert next(iter(RandomDataset(contract(x=("float32", None)), {"x": (2, 2)}, 1))).feed["x"].shape == (2, 2)
    with pytest.raises(InputError, match="no samples"):
        RandomDataset(model, {}, 0)


def test_feeds_of_several_shapes_take_turns(model: IOContract) -> None:
    dataset = RandomDataset(model, {"image": (4, 3, 16, 8)}, 5, 1, others=[{"image": (2, 3, 9, 8)}])
    assert [sample.feed["image"].shape[:3:2] for sample in dataset] == [(4, 16), (2, 9), (4, 16), (2, 9), (4, 16)]
    assert dataset.samples == 16
    first = RandomDataset(model, {"image": (4, 3, 16, 8)}, 5, 1)
    assert (next(iter(dataset)).feed["image"] == next(iter(first)).feed["image"]).all()
    with pytest.raises(InputError, match="no input 'imgae'"):
        RandomDataset(model, {}, 5, 1, others=[{"imgae": (1,)}])


def test_values_that_decide_shapes_are_fed_as_they_are_given(contract: MakeContract) -> None:
    resized = contract(x=("float32", ("N", 4)), to=("int64", (2,)), steps=("int32", ()))
    dataset = RandomDataset(resized, {"x": (6, 4), "to": (3, 8), "steps": (5,)}, 2, 1)
    for sample in dataset:
        assert sample.feed["to"].tolist() == [3, 8]
        assert (sample.feed["steps"].shape, int(sample.feed["steps"])) == ((), 5)
        assert sample.feed["x"].shape == (6, 4)
