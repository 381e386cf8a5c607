"""The order of nodes."""

from __future__ import annotations

import random

import pytest

from trtpipe.preflight.ordering import sorted_order


def test_nodes_in_order_stay_so() -> None:
    assert sorted_order([["x"], ["a"], ["x"]], [["a"], ["b"], ["c"]]) == [0, 1, 2]


def test_of_those_that_may_come_next_the_first_given_does() -> None:
    reads, makes = [["c"], ["x"], ["a"], ["x"]], [["d"], ["a"], ["b"], ["c"]]
    assert sorted_order(reads, makes) == [1, 2, 3, 0]


@pytest.mark.parametrize("reads", [[["b"], ["a"]], [["a"], ["x"]]], ids=["of two", "of one"])
def test_a_cycle_has_no_order(reads: list[list[str]]) -> None:
    assert sorted_order(reads, [["a"], ["b"]]) is None


def test_a_name_from_outside_means_what_it_means_there_until_a_node_makes_it() -> None:
    assert sorted_order([["a"], ["a"]], [["a"], ["b"]], [{"a"}]) == [0, 1]
    assert sorted_order([["b"], ["x"]], [["c"], ["b"]], [{"a"}]) == [1, 0]


def test_any_order_of_a_chain_is_sorted() -> None:
    """Against what sorting by position gives."""
    places = list(range(200))
    random.Random(0).shuffle(places)
    order = sorted_order([[f"v{place}"] for place in places], [[f"v{place + 1}"] for place in places])
    assert order is not None
    assert [places[index] for index in order] == sorted(places)
