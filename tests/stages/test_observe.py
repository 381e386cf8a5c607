from __future__ import annotations

import numpy as np
import pytest
from fixtures_stages import needs, run_stage
from models import conv_net, embedding, feed_for, looped, model, normal, residual, run, weights_of, with_outputs

from trtpipe.calibration.ranges import Ranges
from trtpipe.calibration.statistics_file import load_statistics
from trtpipe.errors import InputError
from trtpipe.stages.calibrate import Calibrate
from trtpipe.stages.observe import Observe

STAGE = Observe()


@pytest.fixture
def go(make_job, table, workdir, heard_all):
    """Ranges of a model on the arrays ``x`` (and others)."""

    def calibrate(proto, tmp_path, recipe=None, **options):
        arrays = options.pop("arrays", None)
        if arrays is None:
            feed = feed_for(proto, dim=32)
            arrays = {name: np.concatenate([value] * (1 if value.shape[0] > 1 else 8)) for name, value in feed.items()}
        np.savez(tmp_path / "data.npz", **arrays)
        job = make_job(precision="int8", recipe=recipe or {"method": "max"}, **options)
        inputs = table(simplified=proto, data=str(tmp_path / "data.npz"))
        draft = run_stage(STAGE, job, inputs, workdir, heard_all)
        STAGE.check(draft, inputs)
        assert draft.names == ("statistics.npz",)
        assert "observed.onnx" not in {path.name for path in workdir.iterdir()}
        inputs.artifacts["statistics"] = draft.finish()
        ranges = run_stage(Calibrate(), job, inputs, workdir, heard_all)
        Calibrate().check(ranges, inputs)
        return Ranges.read(ranges.path)

    return calibrate


def test_the_largest_magnitude_of_every_tensor_that_will_be_quantized(go, tmp_path):
    proto, x = conv_net(), normal(40, 3, 8, 8)
    ranges = go(proto, tmp_path, arrays={"x": x})
    f = run(with_outputs(proto, ["f"]), {"x": x})["f"]
    assert list(ranges.tensors) == ["f", "x"]
    assert ranges.tensors["x"].amax == np.abs(x).max()
    assert ranges.tensors["f"].amax == pytest.approx(np.abs(f).max(), rel=1e-5)
    assert (ranges.method, ranges.samples) == ("max", 40)
    assert ranges.data_summary.samples == 40


def test_percentiles(go, tmp_path):
    x = normal(400, 3, 8, 8)
    ranges = go(conv_net(), tmp_path, {"method": "percentile", "percentile": 99.0}, arrays={"x": x})
    assert ranges.percentile == 99
    assert ranges.tensors["x"].amax == pytest.approx(np.percentile(np.abs(x), 99), rel=0.01)


def test_statistics_lie_beside_the_ranges(go, tmp_path, workdir):
    x = normal(40, 4, 6, 6)
    go(residual(), tmp_path, arrays={"x": x})
    statistics = load_statistics(workdir / "statistics.npz")
    assert list(statistics.tensors) == ["r"]
    assert statistics.tensors["r"].zeros == np.count_nonzero(x <= 0)


def test_nodes_that_are_kept_are_observed_too_so_that_keeping_others_costs_no_pass(go, tmp_path):
    assert go(conv_net(), tmp_path, keep=["*"]) == go(conv_net(), tmp_path)


def test_a_graph_with_nothing_to_observe_still_looks_at_the_data(go, tmp_path):
    proto = model("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    ranges = go(proto, tmp_path)
    assert (ranges.tensors, ranges.samples) == ({}, 32)


def test_a_graph_with_nothing_to_observe_need_not_run(go, tmp_path):
    proto = model("(float[N,4] x) => (float[N,4] y) { y = custom.Op(x) }")
    assert go(proto, tmp_path, arrays={"x": normal(32, 4)}).samples == 32


def test_a_graph_with_nothing_to_observe_needs_no_data(make_job, table, workdir, heard_all):
    inputs = table(simplified=model("() => (float[4] y) { y = RandomNormal<shape=[4]>() }"))
    draft = run_stage(STAGE, make_job(precision="int8"), inputs, workdir, heard_all)
    assert load_statistics(draft.path).tensors == {}


def test_integer_inputs_and_gathered_tensors(go, tmp_path):
    proto = embedding()
    arrays = {"ids": np.arange(40).reshape(20, 2) % 20, "mask": np.ones((20, 2), np.int64)}
    ranges = go(proto, tmp_path, arrays=arrays)
    assert list(ranges.tensors) == ["a"]
    a = run(with_outputs(proto, ["a"]), arrays)["a"]
    assert ranges.tensors["a"].amax == pytest.approx(np.abs(a).max(), rel=1e-5)


def test_weights_in_constant_nodes_count_too(go, tmp_path):
    proto = model("(float[N,2] x) => (float[N,2] y) { w = Constant<value=float[2,2] {1,2,3,4}>() y = MatMul(x, w) }")
    assert list(go(proto, tmp_path).tensors) == ["x"]


def test_the_state_of_a_loop_is_observed_in_all_iterations(go, tmp_path):
    arrays = {"x": normal(8, 4)}
    state, seen = arrays["x"], []
    for _ in range(3):
        seen.append(state)
        state = np.tanh(state @ weights_of(looped())["w"])
    found = go(looped(), tmp_path, arrays=arrays).tensors
    assert found["state"].amax == pytest.approx(np.abs(seen).max(), rel=1e-5)


def test_few_samples_are_warned_about(go, tmp_path):
    summary = go(conv_net(), tmp_path).data_summary
    assert any("only 32 samples" in warning for warning in summary.warnings)


def test_a_tensor_that_becomes_nan_is_named_and_nothing_is_left(go, tmp_path, workdir):
    proto = model("(float[N,4] x) => (float[N,4] y) { l = Log(x) y = MatMul(l, w) }", w=normal(4, 4))
    with pytest.raises(InputError, match="tensor 'l' became NaN or infinite"):
        go(proto, tmp_path, arrays={"x": -np.ones((8, 4), np.float32)})
    assert list(workdir.iterdir()) == []


def test_without_data_there_is_nothing_to_go_by(make_job, table, workdir, heard_all):
    with pytest.raises(InputError, match="needs calibration data, and none was given") as caught:
        run_stage(STAGE, make_job(precision="int8"), table(simplified=conv_net()), workdir, heard_all)
    assert "--calib-data" in caught.value.remedy


@pytest.mark.parametrize(("precision", "skipped"), [("fp32", True), ("fp16", True), ("bf16", True), ("int8", False),
                                                   ("fp8", False)])  # fmt: skip
def test_only_8_bits_need_ranges(make_job, precision, skipped):
    assert needs(STAGE, make_job(precision=precision)) is not skipped


def test_what_its_key_holds(make_job):
    def key(keep=(), **recipe):
        return STAGE.settings(make_job(precision="int8", keep=list(keep), recipe=recipe))

    base = key()
    assert base == key(method="max") == key(percentile=99.0)  # another method costs no new pass
    assert base == key(data={"source": "elsewhere.npz"}) == key(description="words")
    assert base == STAGE.settings(make_job(precision="fp8")) == key(keep=["a"])
    assert base == key(data={"seed": 1}) == key(data={"samples": 3}), "data counts by its content"
    assert base not in [key(data={"skip_bad_samples": 1}), STAGE.settings(make_job(precision="best"))]
