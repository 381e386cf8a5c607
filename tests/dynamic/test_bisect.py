from __future__ import annotations

import pytest
from models import model, normal

from trtpipe.config.profile import ShapeRange
from trtpipe.dynamic.check_corners import cause_of
from trtpipe.dynamic.walk import Walker

TABLE = "(float[B,S] x) => (float[B,S] y) { y = Add(x, table) }"
PAIR = "(float[A,4] x, float[B,4] z) => (float[A,4] y) { y = Add(x, z) }"
TIED = "(float[B,S] x, float[B,S] z) => (float[B,S] y) { s = Add(x, z) y = Add(s, table) }"


def cause(graph: str, ranges: dict[str, tuple], corner: str, **weights):
    walker = Walker(model(graph, **weights))
    spans = {name: ShapeRange(min=low, opt=mid, max=high) for name, (low, mid, high) in ranges.items()}
    shapes = {name: getattr(span, corner) for name, span in spans.items()}
    assert walker.misfit(shapes, {}) is not None
    return cause_of(walker, shapes, {}, spans)


def test_one_dimension_and_where_it_works():
    graph = "(float[1,1,H,W] x) => (float[1,1,A,B] y) { c = Conv(x, w) y = MaxPool<kernel_shape=[3,3]>(c) }"
    sizes = {"x": ((1, 1, 4, 16), (1, 1, 16, 16), (1, 1, 32, 32))}
    places, works = cause(graph, sizes, "min", w=normal(1, 1, 7, 7))
    assert places == (("x", 2),)
    assert works == 9, "7 for the filter, 2 more for the window behind it"


def test_dimensions_of_one_name_move_together():
    graph = TIED.replace("s = Add(x, z) y = Add(s, table)", "s = Add(x, z) k = Shape<start=1>(s) "
                         "o = Constant<value = int64[1] {0}>() t = Slice(table, o, k) y = Add(s, t)")  # fmt: skip
    span = ((1, 2), (2, 64), (4, 512))
    found = cause(graph, {"x": span, "z": span}, "max", table=normal(100))
    assert found == ((("x", 1),), 100)


@pytest.mark.parametrize("high", [(16, 4), (5, 4)])
def test_two_dimensions_that_have_to_be_equal(high):
    found = cause(PAIR, {"x": ((2, 4), (4, 4), (8, 4)), "z": ((2, 4), (4, 4), high)}, "max")
    assert found == ((("x", 0), ("z", 0)), None)


def test_where_nothing_helps_no_node_is_named():
    found = cause(TABLE, {"x": ((1, 6), (2, 6), (4, 6))}, "opt", table=normal(7))
    assert found == ((), None)
