"""The search against engines whose price is known: it must find the cheapest, and never take a worse one."""

from __future__ import annotations

import itertools

import pytest

from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.quantization.engine_search import (
    LEAST_GAIN,
    SCALES_BEHIND,
    SCALES_INSIDE,
    Candidate,
    Reports,
    search,
)

MEGA = 1_000_000


class World:
    """A chain of nodes: what each costs in 16 and in 8 bits, and what a step between the two costs."""

    def __init__(self, prices: dict[str, tuple[int, int]], step: int = 0, behind: int = 0) -> None:
        self.prices = prices
        self.step = step
        self.behind = behind
        self.built: list[Candidate] = []
        self.fails: set[int] = set()

    def __call__(self, candidate: Candidate) -> Reports | None:
        report = self.report(candidate)
        return None if report is None else {"sm89": report}

    def report(self, candidate: Candidate) -> EngineReport | None:
        self.built.append(candidate)
        if len(candidate.nodes) in self.fails:
            return None
        layers, was = [], False
        for node, (high, low) in self.prices.items():
            lowered = node in candidate.nodes
            if lowered and not was:
                layers.append(self._layer(self.step, "x", node))
            extra = self.behind if lowered and candidate.style == SCALES_BEHIND else 0
            layers.append(self._layer((low if lowered else high) + extra, node, "y", node))
            was = lowered
        return EngineReport(source="s", layers=tuple(layers))

    def _layer(self, price: int, name: str, out: str, *nodes: str) -> EngineLayer:
        def one(label: str, size: int) -> EngineTensor:
            return EngineTensor(name=label, type="Int8", dims=(size,))

        return EngineLayer(name="k", kind="kgen", inputs=(one(f"{name}_in", price * MEGA),), outputs=(one(out, 0),),
                           nodes=nodes)  # fmt: skip


def plain(nodes) -> dict[str, str]:
    """Nodes that all belong to one pattern."""
    return dict.fromkeys(nodes, "weighted")


def test_all_of_it_where_all_pays():
    world = World({"a": (10, 4), "b": (10, 4)})
    best, trials = search(plain("ab"), world)
    assert best == Candidate(frozenset({"a", "b"}), SCALES_INSIDE)
    assert [trial.nodes for trial in trials[:3]] == [0, 2, 2]
    assert trials[1].activation_bytes == 8 * MEGA


def test_none_of_it_where_nothing_pays():
    best, _ = search(plain("ab"), World({"a": (10, 14), "b": (10, 12)}))
    assert best == Candidate(frozenset())


def test_only_the_nodes_that_pay():
    best, _ = search(plain("abc"), World({"a": (10, 30), "b": (50, 20), "c": (10, 11)}))
    assert best is not None
    assert best.nodes == {"b"}


def test_steps_between_precisions_count():
    """A node that alone would save 1 is not worth a step of 8; three in a row share one step."""
    prices = {"a": (10, 40), "b": (10, 9), "c": (10, 40), "d": (30, 15), "e": (30, 15), "f": (30, 15)}
    best, _ = search(plain(prices), World(prices, step=8))
    assert best is not None
    assert best.nodes == {"d", "e", "f"}


@pytest.mark.parametrize(("behind", "style"), [(3, SCALES_INSIDE), (-3, SCALES_BEHIND)])
def test_the_cheaper_style(behind, style):
    best, _ = search(plain("a"), World({"a": (20, 10)}, behind=behind))
    assert best == Candidate(frozenset({"a"}), style)


def test_a_small_gain_is_not_worth_the_accuracy():
    price = 1000
    enough = round(price * (1 - LEAST_GAIN)) - 20
    for low, nodes in ((enough, {"a"}), (enough + 40, set())):
        best, _ = search(plain("a"), World({"a": (price, low)}))
        assert best is not None
        assert best.nodes == nodes


def test_nothing_is_built_twice():
    world = World({"a": (10, 30), "b": (50, 20), "c": (50, 20)})
    search(plain("abc"), world)
    assert len(set(world.built)) == len(world.built) <= 9


@pytest.mark.parametrize(("saved", "sizes"), [(LEAST_GAIN - 0.01, {0, 2}), (LEAST_GAIN + 0.01, {0, 1, 2})])
def test_nodes_that_promise_too_little_get_no_engine(saved, sizes):
    """One that saves less than is asked for among all can save no more alone."""
    world = World({"a": (1000, 1100), "b": (1000, round(1000 - 2000 * saved))})
    search(plain("ab"), world)
    assert {len(candidate.nodes) for candidate in world.built} == sizes


def test_nodes_of_one_kernel_go_together():
    def build(candidate: Candidate) -> Reports:
        price = 30 if candidate.nodes else 40
        kernel = World({})._layer(price, "x", "y", "q", "k").model_copy(update={"kind": "gemm"})
        return {"sm89": EngineReport(source="s", layers=(kernel,))}

    best, _ = search(plain("qk"), build)
    assert best is not None
    assert best.nodes == {"q", "k"}


def test_a_pattern_that_does_not_pay_goes_as_a_whole():
    """No kernel names the additions, so only an engine without them shows what they cost."""

    def build(candidate: Candidate) -> Reports:
        adds = len(candidate.nodes & {"add1", "add2"})
        weighted = len(candidate.nodes & {"a", "b"})
        kernel = World({})._layer(100 - 20 * weighted + 5 * adds, "x", "y")
        return {"sm89": EngineReport(source="s", layers=(kernel,))}

    best, _ = search({"a": "weighted", "b": "weighted", "add1": "residual", "add2": "residual"}, build)
    assert best is not None
    assert best.nodes == {"a", "b"}


def test_a_candidate_that_changes_nothing_is_none():
    """Additions only join their neighbors: alone they leave the graph as it is in 16 bits."""
    world = World({"a": (10, 20), "b": (40, 10), "add": (1, 1)})
    high = world(Candidate(frozenset()))

    def build(candidate: Candidate) -> Reports | None:
        return high if candidate.nodes <= {"add"} else world(candidate)

    best, trials = search({"a": "weighted", "b": "weighted", "add": "joining"}, build)
    assert best is not None
    assert "b" in best.nodes
    assert "a" not in best.nodes
    assert sum(trial.cost == trials[0].cost for trial in trials) == 1


def test_builds_that_fail_are_left_out():
    world = World({"a": (10, 4), "b": (10, 4)})
    world.fails = {0}
    best, trials = search(plain("ab"), world)
    assert best is not None
    assert best.nodes == {"a", "b"}
    assert all(trial.nodes for trial in trials)
    world.fails = {0, 2}
    assert search(plain("ab"), world) == (None, ())


def test_it_is_never_worse_than_sixteen_bits():
    for prices in itertools.product([(10, 4), (10, 9), (10, 16)], repeat=3):
        world = World(dict(zip("abc", prices, strict=True)), step=3)
        best, trials = search(plain("abc"), world)
        assert best is not None
        high = next(trial.cost for trial in trials if not trial.nodes)
        chosen = [trial.cost for trial in trials if trial.nodes == len(best.nodes)]
        assert min(chosen) <= high


class TestSeveralTargets:
    """One graph for all of them."""

    @staticmethod
    def both(one: World, other: World):
        def build(candidate: Candidate) -> Reports | None:
            reports = {"sm89": one.report(candidate), "sm120": other.report(candidate)}
            return None if None in reports.values() else reports  # type: ignore[return-value]

        return build

    def test_what_pays_on_both(self):
        """Node a gains on one and loses more on the other; b gains on both."""
        one, other = World({"a": (40, 30), "b": (60, 20)}), World({"a": (40, 70), "b": (60, 30)})
        best, trials = search(plain("ab"), self.both(one, other))
        assert best is not None
        assert best.nodes == {"b"}
        assert [trial.target for trial in trials[:4]] == ["sm89", "sm120"] * 2
        assert search(plain("ab"), one)[0] == Candidate(frozenset("ab"))

    def test_each_counts_by_its_own_size(self):
        """A saving of half on a small engine outweighs a loss of 4 % on one ten times as large, in shares of each."""
        small, large = World({"a": (50, 20), "b": (1, 1)}), World({"a": (5, 4), "b": (95, 96)})
        best, _ = search(plain("a"), self.both(small, large))
        assert best is not None
        assert best.nodes == {"a"}

    @pytest.mark.parametrize(("low", "nodes"), [(99, {"a"}), (101, set())])
    def test_none_of_them_loses(self, low, nodes):
        best, _ = search(plain("a"), self.both(World({"a": (100, 40)}), World({"a": (100, low)})))
        assert best is not None
        assert best.nodes == nodes

    def test_a_candidate_that_one_of_them_refuses(self):
        one, other = World({"a": (10, 4), "b": (10, 4)}), World({"a": (10, 4), "b": (10, 4)})
        other.fails = {2}
        best, trials = search(plain("ab"), self.both(one, other))
        assert best == Candidate(frozenset())
        assert {trial.nodes for trial in trials} == {0}


class TestAccuracy:
    def test_the_cheapest_that_is_accurate_enough(self):
        """Each node costs less quantized; what holds the product of attention is refused."""
        asked: list[Candidate] = []

        def accepts(candidate: Candidate) -> bool:
            asked.append(candidate)
            return "attention" not in candidate.nodes

        nodes = {"conv": "weighted", "add": "joining", "attention": "product"}
        best, trials = search(nodes, World(dict.fromkeys(nodes, (10, 4))), accepts)
        assert best == Candidate(frozenset({"conv", "add"}))
        assert asked[0].nodes == nodes.keys(), "the cheapest is asked first"
        assert asked[-1] == best, "and nothing after the first that is accepted"
        assert max(trial.nodes for trial in trials) == 3

    def test_none_is(self):
        best, _ = search(plain("ab"), World({"a": (10, 4), "b": (10, 4)}), lambda candidate: False)
        assert best == Candidate(frozenset())
