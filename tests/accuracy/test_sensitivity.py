from __future__ import annotations

import numpy as np
import pytest

from trtpipe.accuracy.recording import Replay
from trtpipe.accuracy.sensitivity import GroupSensitivity, OutputNoise, Sensitivity
from trtpipe.errors import InputError

Y = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)


def noise(expected, found):
    return OutputNoise(expected)(Replay(found, "replay"), [{}] * len(found))


def test_it_is_noise_power_over_signal_power():
    gap = np.random.default_rng(1).normal(size=Y.shape).astype(np.float32) * np.float32(0.1)
    wanted = float(np.square(gap.astype(np.float64)).sum() / np.square(Y.astype(np.float64)).sum())
    assert noise([{"y": Y}], [{"y": Y + gap}]) == pytest.approx(wanted, rel=1e-4)
    assert noise([{"y": Y}], [{"y": Y}]) == 0


def test_every_feed_and_output_weighs_the_same():
    expected = [{"y": Y, "z": 100 * Y}, {"y": Y, "z": 100 * Y}]
    found = [{"y": 2 * Y, "z": 100 * Y}, {"y": Y, "z": 100 * Y}]
    assert noise(expected, found) == pytest.approx(1 / 4)


@pytest.mark.parametrize("bad", [np.full_like(Y, np.nan), np.full_like(Y, np.inf), Y[:2]])
def test_what_is_lost_counts_a_lot_but_not_infinitely(bad):
    assert noise([{"y": Y}], [{"y": bad}]) == 1e6


def test_equal_infinities_are_no_noise():
    mask = Y.copy()
    mask[0, 0] = -np.inf
    with pytest.raises(InputError, match="none that differ from 0"):
        noise([{"y": mask}], [{"y": mask}])


def test_silence_does_not_decide():
    loud, silent = {"y": Y}, {"y": np.zeros_like(Y)}
    assert noise([loud, silent], [loud, {"y": np.full_like(Y, 1e-3)}]) < 0.1


@pytest.mark.parametrize("outputs", [{"k": np.arange(3)}, {"y": np.zeros(3, np.float32)}, {}])
def test_outputs_that_say_nothing(outputs):
    with pytest.raises(InputError, match="none that differ from 0"):
        OutputNoise([outputs])


def test_ranks_harm_and_additivity():
    made = Sensitivity(
        precision="int8", data="d", samples=1, all_noise=0.3,
        groups=tuple(GroupSensitivity(name=n, nodes=(n,), operators=(), macs=m, noise=e)
                     for n, m, e in (("a", 100, 0.1), ("b", 1, 0.05), ("c", 0, 0.05))),
    )  # fmt: skip
    assert [group.name for group in made.ranked] == ["a", "b", "c"]
    assert [group.harm for group in made.groups] == pytest.approx([0.001, 0.05, 0.05])
    assert made.additivity == pytest.approx(1.5)
