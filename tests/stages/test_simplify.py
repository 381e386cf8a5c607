from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxsim
import pytest
from fixtures_stages import consumed, needs, run_stage
from models import conv_net, feed_for, model, normal, run, save

from trtpipe.artifact import Draft
from trtpipe.config.profile import ShapeRange
from trtpipe.errors import Cancelled, OutOfMemory, OutOfTime, StageError, WorkerError
from trtpipe.exporter import simplification
from trtpipe.report.stage_records import SimplifyRecord
from trtpipe.stages import simplify as stage_module
from trtpipe.stages.simplify import Simplify, plain
from trtpipe.stages.stage import Inputs

STAGE = Simplify()


@pytest.fixture
def go(make_job, table, workdir, heard_all):
    """(draft, record) of the stage on a model."""

    def simplify(proto, data="", **options):
        inputs = table(model=proto, data=data)
        draft = run_stage(STAGE, make_job(**options), inputs, workdir, heard_all)
        STAGE.check(draft, inputs)
        assert sorted(path.name for path in workdir.iterdir()) == sorted(draft.names)
        return draft, SimplifyRecord.read(draft.sidecar)

    return simplify


def test_in_a_child_process(go):
    draft, record = go(conv_net())
    assert draft.names == ("simplified.onnx", "simplified.onnx.json")
    assert record.simplified
    feed = feed_for(conv_net())
    np.testing.assert_allclose(run(onnx.load(draft.path), feed)["y"], run(conv_net(), feed)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("in_process")
class TestFallback:
    def given_up(self, go, reason):
        draft, record = go(conv_net())
        assert not record.simplified
        assert record.warnings == (f"onnxsim failed: {reason}; the unsimplified graph is used",)
        assert STAGE.warnings(draft.finish(), Inputs()) == record.warnings
        feed = feed_for(conv_net())
        np.testing.assert_allclose(run(onnx.load(draft.path), feed)["y"], run(conv_net(), feed)["y"], rtol=1e-5)

    def test_when_onnxsim_fails(self, go, monkeypatch):
        def explode(proto, **_):
            raise ValueError("odd graph")

        monkeypatch.setattr(onnxsim, "simplify", explode)
        self.given_up(go, "onnxsim failed: odd graph")

    def test_when_it_changes_the_result(self, go, monkeypatch):
        def spoil(path, **_):
            proto = onnx.load(path)
            bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "bias")
            bias.CopyFrom(onnx.numpy_helper.from_array(np.full(5, 100, np.float32), "bias"))
            return proto, True

        monkeypatch.setattr(onnxsim, "simplify", spoil)
        _, record = go(conv_net())
        assert not record.simplified
        assert "simplification changed output 'y' by up to 1" in record.warnings[0]

    def test_when_the_child_dies(self, go, monkeypatch):
        task, calls = stage_module.call_forked, []

        def die_once(*args, **options):
            calls.append(args)
            if len(calls) == 1:
                raise WorkerError("the worker crashed", "try again")
            return task(*args, **options)

        monkeypatch.setattr(stage_module, "call_forked", die_once)
        self.given_up(go, "the worker crashed")

    def test_half_written_results_of_the_first_attempt_are_removed(self, go, monkeypatch, workdir):
        original = simplification._compare

        calls = []

        def fail_once(wanted, result, feeds):
            calls.append(result)
            if len(calls) == 1:
                (workdir / "simplified.onnx.data").write_bytes(b"left")
                raise StageError("differs", "x")
            return original(wanted, result, feeds)

        monkeypatch.setattr(simplification, "_compare", fail_once)
        draft, _ = go(conv_net())
        assert "simplified.onnx.data" not in draft.names

    @pytest.mark.parametrize("limit", [OutOfTime, OutOfMemory, Cancelled])
    def test_but_not_at_a_limit_of_the_machine(self, go, monkeypatch, limit):
        """Another machine would come to the end, and its result is what the key stands for."""

        def stopped(*arguments):
            raise limit("stopped", "wait")

        monkeypatch.setattr("trtpipe.stages.simplify._attempt", stopped)
        with pytest.raises(limit):
            go(conv_net())

    def test_when_the_converter_of_opsets_changes_the_result(self, go):
        """Scan of opset 8 has a batch axis, which the converter to opset 9 leaves where it was."""
        proto = model(
            "(float[1,2] initial, float[1,3,2] x) => (float[1,2] y, float[1,3,2] z) { y, z = Scan<num_scan_inputs=1, "
            "body = b (float[2] s, float[2] n) => (float[2] t, float[2] o) { t = Add(s, n) o = Identity(t) }>"
            "(, initial, x) }",
            opset=8, ir_version=3,
        )  # fmt: skip
        draft, record = go(proto)
        assert record.opset == 8
        assert record.warnings[-1].startswith("rewriting failed: ")
        assert record.warnings[-1].endswith("; the given graph is used")
        feed = feed_for(proto)
        np.testing.assert_array_equal(run(onnx.load(draft.path), feed)["z"], run(proto, feed)["z"])

    def test_not_when_the_model_as_it_came_is_what_kills_it(self, go, monkeypatch):
        calls = []

        def die(*args, **options):
            calls.append(args)
            raise WorkerError("the worker crashed", "try again", stage_module.RUN)

        monkeypatch.setattr(stage_module, "call_forked", die)
        with pytest.raises(WorkerError, match="the worker crashed"):
            go(conv_net())
        assert len(calls) == 1

    def test_an_error_of_the_last_attempt_is_an_error(self, go, monkeypatch):
        def fail(*args):
            raise StageError("differs", "x")

        monkeypatch.setattr(simplification, "_compare", fail)
        with pytest.raises(StageError, match="differs"):
            go(conv_net(), simplify=False)


@pytest.mark.usefixtures("in_process")
def test_it_is_compared_on_the_users_data(go, tmp_path, monkeypatch):
    """The two graphs differ for large inputs only."""
    clipped = model("(float[N,2] x) => (float[N,2] y) { y = Clip(x, , high) }", high=np.float32(5))
    monkeypatch.setattr(onnxsim, "simplify", lambda proto, **_: (clipped, True))
    plain = model("(float[N,2] x) => (float[N,2] y) { y = Identity(x) }")
    assert go(plain)[1].simplified
    np.savez(tmp_path / "data.npz", x=np.full((8, 2), 100, np.float32))
    assert not go(plain, data=str(tmp_path / "data.npz"))[1].simplified


@pytest.mark.usefixtures("in_process")
def test_names_of_inputs_may_be_anything(go, tmp_path):
    proto = model("(float[N,2] x, float[N,2] z) => (float[N,2] y) { y = Sub(x, z) }")
    proto.graph.input[0].name, proto.graph.node[0].input[0] = "a/b:0", "a/b:0"
    np.savez(tmp_path / "data.npz", **{"a/b:0": normal(4, 2), "z": normal(4, 2, seed=1)})
    assert go(proto, data=str(tmp_path / "data.npz"))[1].parity[0].max_abs == 0


def test_samples_of_types_that_numpy_files_lack_survive_the_way_to_the_child():
    values = np.arange(4, dtype=ml_dtypes.bfloat16).reshape(2, 2)
    assert plain(values).dtype == np.uint16
    np.testing.assert_array_equal(plain(values).view(ml_dtypes.bfloat16), values)
    assert plain(normal(2)).dtype == np.float32


def test_samples_whose_type_is_a_copy_reach_the_child_as_they_are(go, tmp_path):
    (tmp_path / "data.py").write_text(
        "import numpy as np\n\n\ndef feeds():\n"
        "    for x in np.random.default_rng(0).normal(size=(4, 2, 2)):\n"
        "        yield {'x': x.astype(np.dtype(np.float32, copy=True))}  # as it is after unpickling\n"
    )
    record = go(model("(float[N,2] x) => (float[N,2] y) { y = Relu(x) }"), data=f"{tmp_path / 'data.py'}:feeds")[1]
    assert record.simplified
    assert not record.notes


def test_a_changed_interface_is_caught(table, tmp_path):
    inputs = table(model=conv_net())
    save(conv_net(batch="2"), tmp_path / "simplified.onnx")
    STAGE.check(Draft("simplified", tmp_path, ("simplified.onnx",)), inputs)
    save(model("(float[N,3,8,8] x) => (float[N,5] z) { z = Flatten(x) }"), tmp_path / "simplified.onnx")
    with pytest.raises(StageError, match="simplification changed the interface: outputs were"):
        STAGE.check(Draft("simplified", tmp_path, ("simplified.onnx",)), inputs)


def test_what_its_key_holds(make_job):
    def key(**options):
        return STAGE.settings(make_job(**options))

    base = key()
    assert base == key(targets=["sm120"]) == key(precision="fp16") == key(keep=["a"]) == key(precision="int8")
    assert base != key(simplify=False)
    assert base != key(precision="bf16")
    assert base != key(shapes={"x": {"min": [1], "opt": [2], "max": [3]}})
    assert needs(STAGE, make_job())
    assert consumed(STAGE, make_job()) == ("model", "first-samples")


def test_what_all_profiles_fix_at_all_corners_is_in_the_key(make_job):
    def spans(**shapes):
        return {name: ShapeRange(min=low, opt=high, max=high) for name, (low, high) in shapes.items()}

    fixed = spans(x=((1, 576), (8, 576)), rate=((16000,), (16000,)), only=((2,), (2,)))
    other = spans(x=((4, 576), (4, 576)), rate=((16000,), (16000,)))
    key = STAGE.settings(make_job(shapes=(fixed, other)))
    assert key.fixed == {"x": (None, 576), "rate": (16000,)}
    assert STAGE.settings(make_job()).fixed == {}
