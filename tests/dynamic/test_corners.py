from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from models import model, normal, run, save

from trtpipe.backends import base
from trtpipe.backends.base import EngineRequest, load_backend
from trtpipe.config.profile import DeploymentProfile, ShapeRange
from trtpipe.config.settings import Settings
from trtpipe.config.target import find_target
from trtpipe.dynamic.check_corners import CornersRequest, Place, corners_task
from trtpipe.progress import NullProgress

#: A folder of real models with their data and metric; see docs/design.md.
CASES = Path(os.environ.get("TRTPIPE_TEST_CASES", "none"))
rtx = pytest.mark.skipif(base.missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")


def span(low, mid, high) -> ShapeRange:
    return ShapeRange(min=low, opt=mid, max=high)


def look(proto, tmp_path, *profiles):
    path = save(proto, tmp_path / "m.onnx")
    return corners_task(CornersRequest(model=str(path), profiles=profiles), lambda *_: None).complaint


EMBEDDING = model(
    "(int64[B,S] ids) => (float[B,S,8] y) { e = Gather(words, ids) sh = Shape<start=1,end=2>(ids) "
    "z = Constant<value = int64[1] {0}>() p = Slice(table, z, sh, z) y = Add(e, p) }",
    words=normal(100, 8), table=normal(128, 8),
)  # fmt: skip
SUM = model("(float[A,4] a, float[B,4] b) => (float[A,4] y) { y = Add(a, b) }")
JOINED = model(
    "(float[2,A] a, float[2,B] b, float[C,4] c) => (float[2,4] y) { j = Concat<axis=1>(a, b) y = MatMul(j, c) }"
)


class TestTrapsAreReal:
    """TensorRT-RTX builds each of these all the same; onnxruntime shows what happens at run time."""

    @rtx
    @pytest.mark.parametrize(
        ("proto", "profile"),
        [
            (EMBEDDING, {"ids": span((1, 4), (2, 64), (4, 512))}),
            (SUM, {"a": span((2, 4), (4, 4), (8, 4)), "b": span((2, 4), (4, 4), (16, 4))}),
        ],
        ids=["sequence longer than its table", "sizes that disagree at max"],
    )
    def test_built_and_broken(self, tmp_path, proto, profile):
        path = save(proto, tmp_path / "m.onnx")
        settings = Settings(cache_dir=tmp_path / "cache")
        plan = tmp_path / "e.plan"
        load_backend("tensorrt-rtx").build(
            EngineRequest(path, DeploymentProfile(shapes=(profile,)), (find_target("sm89"),), plan, settings),
            NullProgress(),
        )
        assert plan.stat().st_size > 0
        types = {"ids": np.int64}
        largest = {name: np.zeros(given.max, types.get(name, np.float32)) for name, given in profile.items()}
        with pytest.raises(Exception, match=r"BroadcastIterator|broadcast"):
            run(proto, largest)
        assert look(proto, tmp_path, profile) is not None


def test_a_sequence_longer_than_the_table_of_positions(tmp_path):
    found = look(EMBEDDING, tmp_path, {"ids": span((1, 4), (2, 64), (4, 512))})
    assert found is not None
    assert (found.profile, found.corner, found.op) == (0, "max", "Add")
    assert (found.places, found.works) == ((Place(input="ids", axis=1, size=512),), 128)
    assert look(EMBEDDING, tmp_path, {"ids": span((1, 4), (2, 64), (4, 128))}) is None


def test_more_elements_than_tensorrt_counts(tmp_path):
    proto = model("(float[N,1024] x) => (float[N,1024] y) { y = Relu(x) }")
    found = look(proto, tmp_path, {"x": span((1, 1024), (1, 1024), (2**30 + 1, 1024))})
    assert found is not None
    assert (found.corner, found.places, found.works) == ("max", (Place(input="x", axis=0, size=2**30 + 1),), 2**30)
    assert "counts to 1099511627776 elements" in found.reason
    assert look(proto, tmp_path, {"x": span((1, 1024), (1, 1024), (2**30, 1024))}) is None


def test_the_profile_and_the_corner_are_named(tmp_path):
    fine, wrong = {"ids": span((1, 4), (2, 64), (4, 128))}, {"ids": span((1, 4), (2, 129), (4, 130))}
    found = look(EMBEDDING, tmp_path, fine, wrong)
    assert found is not None
    assert (found.profile, found.corner, found.works) == (1, "opt", 128)


def test_inputs_that_meet_have_sizes_that_agree(tmp_path):
    fine = span((2, 4), (4, 4), (8, 4))
    assert look(SUM, tmp_path, {"a": fine, "b": fine}) is None
    found = look(SUM, tmp_path, {"a": fine, "b": span((2, 4), (4, 4), (16, 4))})
    assert found is not None
    assert found.corner == "max"
    assert found.places == (Place(input="a", axis=0, size=8), Place(input="b", axis=0, size=16))
    found = look(SUM, tmp_path, {"a": fine, "b": span((3, 4), (4, 4), (8, 4))})
    assert found is not None
    assert found.corner == "min"


def test_a_joined_size_that_does_not_fit(tmp_path):
    ranges = {"a": span((2, 1), (2, 2), (2, 8)), "b": span((2, 1), (2, 2), (2, 8)), "c": span((2, 4), (4, 4), (15, 4))}
    found = look(JOINED, tmp_path, ranges)
    assert found is not None
    assert (found.corner, found.op, found.reason) == ("max", "MatMul", "does not take 2x16 and 15x4")


def test_values_that_decide_shapes(tmp_path):
    proto = model("(float[B,6] x, int64[2] to) => (float[R,C] y) { y = Reshape(x, to) }")
    sizes = {"x": span((1, 6), (2, 6), (4, 6))}
    assert look(proto, tmp_path, {**sizes, "to": span((2, 3), (4, 3), (8, 3))}) is None
    found = look(proto, tmp_path, {**sizes, "to": span((2, 3), (4, 3), (8, 4))})
    assert found is not None
    assert found.reason == "cannot make 8x4 of 4x6"


def test_what_onnxruntime_runs_is_never_refused(tmp_path):
    """Range wants scalars by the standard; onnxruntime takes vectors of one element too."""
    proto = model(
        "(float[N] x) => (float[N] y) { sh = Shape(x) z = Constant<value = int64[1] {0}>() "
        "one = Constant<value = int64[1] {1}>() r = Range(z, sh, one) f = Cast<to=1>(r) y = Add(x, f) }"
    )
    assert run(proto, {"x": np.zeros(3, np.float32)})["y"].tolist() == [0, 1, 2]
    assert look(proto, tmp_path, {"x": span((1,), (2,), (4,))}) is None


@pytest.mark.skipif(not CASES.is_dir(), reason="TRTPIPE_TEST_CASES names no folder of cases")
def test_a_real_encoder_is_no_longer_than_its_positions():
    spec = importlib.util.spec_from_file_location("encoder", CASES / "sts_minilm_l6" / "case.py")
    assert spec is not None
    assert spec.loader is not None
    case = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(case)
    names = list(case.PROFILES)

    def at_most(length: int):
        profile = {name: span((1, 4), (8, 24), (8, length)) for name in names}
        return corners_task(CornersRequest(model=str(case.MODEL), profiles=(profile,)), lambda *_: None).complaint

    assert at_most(512) is None
    found = at_most(1024)
    assert found is not None
    assert found.works == 512
    assert {place.axis for place in found.places} == {1}
