from __future__ import annotations

import pytest
from models import model, normal

from trtpipe.dynamic.check_corners import check_corners
from trtpipe.errors import InputError, WorkerError

EMBEDDING = model(
    "(int64[B,S] ids) => (float[B,S,8] y) { e = Gather(words, ids) sh = Shape<start=1,end=2>(ids) "
    "z = Constant<value = int64[1] {0}>() p = Slice(table, z, sh, z) y = Add(e, p) }",
    words=normal(100, 8), table=normal(128, 8),
)  # fmt: skip
SUM = model("(float[A,4] a, float[B,4] b) => (float[A,4] y) { y = Add(a, b) }")


def span(low, mid, high):
    return {"min": low, "opt": mid, "max": high}


@pytest.fixture
def look(make_job, table, heard_all):
    def check(proto, *shapes):
        job = make_job(shapes=shapes)
        check_corners(table(lowered=proto).artifacts["lowered"], job.profile.shapes, job.settings, heard_all)

    return check


@pytest.mark.usefixtures("in_process")
class TestWords:
    def test_shapes_at_which_it_works(self, look):
        first, second = (span([size, 1], [size, 64], [size, 128]) for size in (4, 8))
        assert look(EMBEDDING, {"ids": first}, {"ids": second}) is None
        with pytest.raises(InputError, match=r"^optimization profile 2: "):  # all corners of both were tried
            look(EMBEDDING, {"ids": first}, {"ids": second | {"max": [8, 129]}})

    def test_input_dimension_node_and_remedy(self, look):
        with pytest.raises(InputError) as caught:
            look(EMBEDDING, {"ids": span([1, 1], [2, 64], [4, 512])})
        assert caught.value.message == (
            "the model cannot work at the largest shapes: node 'add_4' (Add) does not take 4x512x8 and 128x8; "
            "dimension 1 of input 'ids' is 512 there"
        )
        assert caught.value.remedy == (
            "make dimension 1 of 'ids' at most 128 in --max-shapes, or export the model for that size"
        )

    def test_the_profile_is_named_where_there_are_several(self, look):
        with pytest.raises(InputError, match=r"^optimization profile 2: the model cannot work at the typical shapes"):
            look(EMBEDDING, {"ids": span([1, 1], [2, 64], [4, 128])}, {"ids": span([1, 1], [1, 129], [1, 512])})

    def test_two_inputs_that_contradict_each_other(self, look):
        with pytest.raises(
            InputError, match="dimension 0 of input 'a' is 8 and dimension 0 of input 'b' is 16"
        ) as caught:
            look(SUM, {"a": span([2, 4], [4, 4], [8, 4]), "b": span([2, 4], [4, 4], [16, 4])})
        assert "'a' and 'b' the same largest size" in caught.value.remedy

    def test_no_dimension_is_the_cause(self, look):
        proto = model("(float[B,6] x) => (float[B,6] y) { y = Add(x, w) }", w=normal(7))
        with pytest.raises(InputError, match=r"(?m)does not take 2x6 and 7$") as caught:
            look(proto, {"x": span([1, 6], [2, 6], [4, 6])})
        assert caught.value.remedy == "correct the typical shapes, or export the model for them"


def test_it_has_a_process_and_limits_of_its_own(look, make_job, table, heard_all):
    with pytest.raises(InputError, match="512"):
        look(EMBEDDING, {"ids": span([1, 1], [2, 64], [4, 512])})
    job = make_job(shapes={"ids": span([1, 1], [2, 64], [4, 128])})
    object.__setattr__(job.settings, "worker_seconds", 1e-3)
    with pytest.raises(WorkerError, match=r"time limit .* while checking shapes of lowered"):
        check_corners(table(lowered=EMBEDDING).artifacts["lowered"], job.profile.shapes, job.settings, heard_all)
