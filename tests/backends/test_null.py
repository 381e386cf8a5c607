from __future__ import annotations

import numpy as np
import pytest
from fault_injection import fault

from trtpipe.backends.base import EngineRequest
from trtpipe.backends.null import Null, NullBehavior
from trtpipe.config.profile import BuildSettings, DeploymentProfile
from trtpipe.config.target import find_target
from trtpipe.errors import BuildError, InputError, WorkerError

SM89, SM120 = find_target("sm89"), find_target("sm120")


def build(model, plan, settings, progress, target=SM89, behavior=None, **limits):
    profile = DeploymentProfile(build=BuildSettings(**limits))
    return Null(behavior).build(EngineRequest(model, profile, (target,), plan, settings), progress)


def test_plans_depend_on_content_and_target_alone(conv_net, tmp_path, settings, heard):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(conv_net.read_bytes())
    plans = {}
    for name, model, target in (("a", conv_net, SM89), ("b", copy, SM89), ("c", conv_net, SM120)):
        plans[name] = tmp_path / f"{name}.plan"
        build(model, plans[name], settings, heard, target)
    assert plans["a"].read_bytes() == plans["b"].read_bytes() != plans["c"].read_bytes()


def test_its_runner_keeps_the_contract(conv_net, tmp_path, settings, heard):
    plan = tmp_path / "e.plan"
    record = build(conv_net, plan, settings, heard)
    with Null().open(plan, settings) as runner:
        assert (runner.inputs, runner.outputs) == (record.io.inputs, record.io.outputs)
        first = runner.infer({"x": np.zeros((5, 3, 16, 16), np.float32)})
        again = runner.infer({"x": np.ones((5, 3, 16, 16), np.float32)})
        with pytest.raises(InputError, match="feed names"):
            runner.infer({"z": np.zeros(1, np.float32)})
    assert first["y"].shape == (5, 8, 16, 16)
    assert first["y"].dtype == np.float32
    np.testing.assert_array_equal(first["y"], again["y"])


def test_small_float_types_have_arrays_too(write_model, tmp_path, settings, heard):
    model = write_model("(bfloat16[2] x) => (bfloat16[2] y) { y = Relu(x) }")
    build(model, tmp_path / "e.plan", settings, heard)
    with Null().open(tmp_path / "e.plan", settings) as runner:
        assert runner.infer({"x": np.zeros(2, np.float32)})["y"].dtype.name == "bfloat16"


def test_it_refuses_and_fails_when_told(conv_net, tmp_path, settings, heard):
    refusal = Null(NullBehavior(refusal="too blue")).refuses(conv_net, DeploymentProfile(), SM89)
    assert refusal is not None
    assert refusal.reason == "too blue"
    with pytest.raises(BuildError):
        build(conv_net, tmp_path / "e.plan", settings, heard, behavior=NullBehavior(task=fault("fail")))
    assert not (tmp_path / "e.plan").exists()


def test_the_profiles_limits_are_in_force(conv_net, tmp_path, settings, heard):
    with pytest.raises(WorkerError, match=r"time limit of 500 ms while building sm89 from model\.onnx"):
        build(conv_net, tmp_path / "e.plan", settings, heard, behavior=NullBehavior(task=fault("hang")), time_limit=0.5)


def test_a_plan_of_another_make_is_no_null_plan(tmp_path, settings):
    (tmp_path / "e.plan").write_bytes(b"ftrt" + bytes(100))
    with pytest.raises(InputError), Null().open(tmp_path / "e.plan", settings):
        pass
