from __future__ import annotations

import math

import onnx
import pytest

import trtpipe
from trtpipe.errors import InputError
from trtpipe.regression.gate import differences


@pytest.fixture
def build(world, heard_all):
    def make(name, **options):
        result = trtpipe.build(
            world.job(accuracy={"max_drop": "100%"}, **options), world.folder / name, progress=heard_all
        )
        assert result.out is not None
        return result.out

    return make


def rows(both):
    return {each.name: (each.old, each.new) for each in both}


def test_a_build_does_not_differ_from_itself(build):
    found = trtpipe.diff(build("a"), build("b"))
    empty = {name: value for name, value in found if isinstance(value, tuple) and value}
    assert empty == {}


def test_another_method_moves_ranges(build):
    found = trtpipe.diff(build("a"), build("b", recipe={"method": "percentile", "percentile": 60.0}))
    assert "calibration.percentile: 99.99 -> 60.0" in found.settings
    assert found.ranges
    octaves = [abs(move.octaves) for move in found.ranges]
    assert octaves == sorted(octaves, reverse=True)
    assert all(move.octaves == pytest.approx(math.log2(move.new / move.old)) for move in found.ranges)
    assert set(rows(found.sizes)) == {"lowered", "engine:sm89"}
    assert "lowered, output y" in rows(found.parity)
    assert found.precisions == found.weights == found.counts == ()


def test_a_kept_node_computes_in_another_precision(build):
    found = trtpipe.diff(build("a"), build("b", keep=["conv*"]))
    assert [pair for name, pair in rows(found.precisions).items() if "(Conv)" in name] == [("int8", "float32")]
    assert "profile.keep: [] -> ['conv*']" in found.settings


def test_weights_that_changed_are_named(world, build):
    a = build("a")
    proto = onnx.load(world.model)
    next(t for t in proto.graph.initializer if t.name == "v").raw_data = b"\0" * 80
    onnx.save(proto, world.model)
    assert trtpipe.diff(a, build("b")).weights == ("v",)


def test_builds_of_different_precision(build):
    found = trtpipe.diff(build("a"), build("b", precision="fp16", keep=[]))
    assert any(line.startswith("profile.precision: int8 -> fp16") for line in found.settings)
    assert rows(found.counts)["int8"] == ("1", "")
    assert found.ranges == ()


def test_a_folder_without_a_build(build, tmp_path):
    with pytest.raises(InputError, match="no bundle lies there"):
        trtpipe.diff(build("a"), tmp_path)


def test_what_only_one_build_has_is_told_in_words():
    found = differences({"tools": {"torch": "2.13"}, "time": None}, {"tools": {"numpy": "2.4"}, "time": 3})
    assert found == ["time: none -> 3", "tools.numpy: none -> 2.4", "tools.torch: 2.13 -> none"]
    assert differences({"a": None}, {}) == []
