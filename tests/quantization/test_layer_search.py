"""The search for what to keep, on models whose loss is known."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.quantization.layer_search import Search, TimeBudgetSpent
from trtpipe.quantization.sensitivity import GroupSensitivity


def groups(noise, macs=None):
    work = macs if macs is not None else [1] * len(noise)
    return [
        GroupSensitivity(name=str(i), nodes=(str(i),), operators=("Conv",), macs=int(c), noise=float(n))
        for i, (n, c) in enumerate(zip(noise, work, strict=True))
    ]


def additive(noise, drop):
    """Losses in proportion to the noise that is left; ``drop`` with everything in 8 bits."""
    return lambda kept: drop * (1 - sum(noise[i] for i in kept) / sum(noise))


def searched(noise, loss, allowed, macs=None, most=11):
    search = Search(groups(noise, macs), loss, allowed, most)
    return search, search.run()


def test_nothing_is_kept_where_the_budget_holds():
    search, kept = searched([1, 2, 3], lambda kept: 0.004, 0.005)
    assert kept == ()
    assert len(search.trials) == 1


def test_the_one_bad_group_is_found_at_once():
    noise = [1e-5] * 50 + [1.0] + [1e-5] * 50
    search, kept = searched(noise, additive(noise, 0.3), 0.005)
    assert kept == (50,)
    assert len(search.trials) <= 4


def test_cheap_noisy_groups_are_kept_rather_than_dear_ones():
    noise, macs = [1.0, 1.0, 0.01], [100, 1, 50]
    _, kept = searched(noise, additive(noise, 0.01), 0.0055, macs)
    assert kept == (1,)


@pytest.mark.parametrize("count", [1, 2, 7, 54, 150])
def test_near_the_bound_in_a_dozen_evaluations(count):
    """Against the fractional knapsack, which keeps least work of all: noise to be removed at least work."""
    generator = np.random.default_rng(count)
    ratios = []
    for _ in range(40):
        noise, macs = np.exp(generator.normal(0, 2.5, count)), generator.integers(1, 100, count)
        drop = generator.uniform(0.006, 0.5)
        loss = additive(noise, drop)
        search, kept = searched(noise, loss, 0.005, macs)
        assert kept is not None
        assert loss(kept) <= 0.005 + 1e-9
        assert len(search.trials) <= 11
        ratios.append(search.work(kept) / bound(noise, macs, 1 - 0.005 / drop))
    if count >= 7:
        assert np.median(ratios) < 1.25


def bound(noise, macs, share):
    needed, work = share * noise.sum(), 0.0
    for index in np.argsort(-noise / macs):
        part = min(1.0, max(0.0, needed / noise[index]))
        work, needed = work + part * macs[index], needed - part * noise[index]
    return work


def test_what_need_not_be_kept_is_put_back():
    """The ranking is wrong: group 0 looks worst and harms nothing."""
    noise = [10.0, 5.0, 1.0, 1.0]
    _, kept = searched(noise, lambda kept: 0.0 if 1 in kept else 0.1, 0.005)
    assert kept == (1,)


def test_interactions_do_not_break_the_budget():
    generator = np.random.default_rng(1)
    for _ in range(50):
        needed = set(generator.choice(20, 3, replace=False).tolist())
        noise = generator.random(20)
        loss = lambda kept, needed=needed: 0.0 if needed <= set(kept) else 0.05  # noqa: E731
        search, kept = searched(noise, loss, 0.005)
        assert kept is not None
        assert needed <= set(kept)
        assert len(search.trials) <= 11


def test_a_budget_that_not_even_float32_meets():
    search, kept = searched([1, 2], additive([1, 2], 0.2), -0.01)
    assert kept is None
    assert len(search.trials) == 1
    assert searched([1, 2], lambda kept: -0.02, -0.01)[1] == (), "8 bits may be better by luck"


def test_16_bits_have_to_hold_too():
    """What ``best`` keeps is no float32: that it holds is for the metric to say."""
    noise = [1.0, 2.0]

    def rounded(kept):
        return 0.001 + additive(noise, 0.3)(kept)

    tight = Search(groups(noise), rounded, 0.0005, 11, exact=False)
    assert tight.run() is None
    assert [trial.kept for trial in tight.trials] == [(), (0, 1)]
    wide = Search(groups(noise), rounded, 0.002, 11, exact=False)
    assert wide.run() == (0, 1)
    assert {trial.kept: trial.holds for trial in wide.trials}[0, 1]


def test_16_bits_that_were_not_evaluated_are_not_promised():
    def limited(kept):
        if kept:
            raise TimeBudgetSpent
        return 0.3

    assert Search(groups([1.0, 2.0]), limited, 0.01, 11, exact=False).run() is None
    assert Search(groups([1.0, 2.0]), limited, 0.01, 11).run() == (0, 1)


def test_nan_never_holds():
    _, kept = searched([1.0, 2.0], lambda kept: float("nan"), 0.005)
    assert kept == (0, 1)


def test_out_of_time_gives_the_best_so_far():
    noise = list(np.geomspace(1, 1e-3, 30))
    loss, calls = additive(noise, 0.3), []

    def limited(kept):
        if len(calls) == 5:
            raise TimeBudgetSpent
        calls.append(kept)
        return loss(kept)

    search, kept = searched(noise, limited, 0.005)
    assert kept is not None
    assert loss(kept) <= 0.005
    assert len(search.trials) == 5
    assert searched(noise, lambda kept: (_ for _ in ()).throw(TimeBudgetSpent), 0.005)[1] == tuple(range(30))


def test_the_same_search_twice():
    generator = np.random.default_rng(2)
    noise, macs = generator.random(40), generator.integers(1, 9, 40)
    first, second = (searched(noise, additive(noise, 0.1), 0.005, macs)[0].trials for _ in range(2))
    assert first == second
