"""Which targets can be built here, and why not."""

from __future__ import annotations

from trtpipe.api import doctor
from trtpipe.backends.base import missing
from trtpipe.config.target import TARGETS


def test_without_any_tensorrt_nothing_can_be_built(monkeypatch):
    monkeypatch.setattr(doctor, "missing", lambda name: "not installed")
    found = doctor.target_states(("tensorrt-rtx", "tensorrt"))
    assert [state.name for state in found] == [target.name for target in TARGETS]
    assert {(state.backends, state.problem) for state in found} == {((), "no TensorRT is installed")}


def test_the_null_back_end_builds_for_all():
    assert all(state.backends == ("null",) and not state.problem for state in doctor.target_states(("null",)))


def test_rtx_says_what_it_cannot():
    if missing("tensorrt-rtx") is not None:
        return
    found = {state.name: state for state in doctor.target_states(("tensorrt-rtx",))}
    assert found["sm89"].backends == ("tensorrt-rtx",)
    assert found["sm90"].problem == "TensorRT-RTX builds no engines for sm90 (Hopper)"
    assert (found["sm87"].dla, found["sm89"].dla) == (True, False)
    assert "float8_e4m3fn" in found["sm89"].dtypes
