from __future__ import annotations

import pytest

from trtpipe.quantization.sensitivity import GroupSensitivity, Sensitivity


def test_ranks_harm_and_additivity():
    made = Sensitivity(
        precision="int8", data="d", samples=1, all_noise=0.3,
        groups=tuple(GroupSensitivity(name=n, nodes=(n,), operators=(), macs=m, noise=e)
                     for n, m, e in (("a", 100, 0.1), ("b", 1, 0.05), ("c", 0, 0.05))),
    )  # fmt: skip
    assert [group.name for group in made.ranked] == ["a", "b", "c"]
    assert [group.noise_per_mac for group in made.groups] == pytest.approx([0.001, 0.05, 0.05])
    assert made.additivity == pytest.approx(1.5)
