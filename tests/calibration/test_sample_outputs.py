from __future__ import annotations

import numpy as np
import pytest

from trtpipe.calibration import sample_outputs
from trtpipe.calibration.sample_outputs import SampleOutputs, SavedOutput, digest_of

FEEDS = [{"x": np.full((1, 2), number, np.float32)} for number in range(20)]


def kept(order: list[int]) -> SampleOutputs:
    found = SampleOutputs()
    for number in order:
        found.add(FEEDS[number], {"y": np.arange(number % 3 + 1, dtype=np.float32), "z": np.array(number, np.float64)})
    return found


def test_come_back_by_the_feed_that_gave_them() -> None:
    found = SampleOutputs.unpack(*kept([1, 2, 5]).pack())
    assert found == kept([5, 1, 2])
    known = found.of(FEEDS[5], ["y"])
    assert known is not None
    assert known["y"].tolist() == [0, 1, 2]
    assert found.of(FEEDS[5], ["y", "other"]) is None
    assert found.of(FEEDS[3], ["y"]) is None


def test_are_copies() -> None:
    found, value = SampleOutputs(), np.zeros(2, np.float32)
    found.add(FEEDS[0], {"y": value})
    value += 1
    assert found.known[digest_of(FEEDS[0])]["y"].tolist() == [0, 0]


def test_neither_order_nor_parts_decide_which_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_outputs, "MOST_BYTES", 100)
    whole = kept(list(range(20)))
    assert 0 < len(whole.known) < 20
    assert kept(list(range(19, -1, -1))) == whole
    assert kept(list(range(8))).merge(kept(list(range(8, 20)))) == whole


@pytest.mark.parametrize("shape", [(3,), (-2, -1)])
def test_damage_is_refused(shape: tuple[int, ...]) -> None:
    about = SavedOutput(sample="s", name="y", dtype="uint8", shape=shape)
    with pytest.raises(ValueError, match="another size"):
        SampleOutputs.unpack([about], np.zeros(2, np.uint8))
