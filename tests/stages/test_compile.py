from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from fault_injection import fault
from fixtures_stages import consumed, fingerprint_of, needs, run_stage
from models import conv_net, embedding, model, normal, save

from trtpipe.artifact import Draft, IOContract, TensorSpec
from trtpipe.backends import base, null
from trtpipe.backends.base import Refusal
from trtpipe.backends.null import Null, NullBehavior
from trtpipe.config.target import find_target
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.errors import BuildError, InputError, InternalError, StageError, WorkerError
from trtpipe.passes.decisions import NodeDecision
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.compile import Compile
from trtpipe.stages.stage import Inputs

STAGE = Compile()
BATCHES = {"x": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}}
SM89 = find_target("sm89")


@pytest.fixture
def go(make_job, table, workdir, heard_all):
    def compile_(proto, **options):
        inputs = table(lowered=proto) if isinstance(proto, onnx.ModelProto) else proto
        job = make_job(**options).for_target(SM89)
        draft = run_stage(STAGE, job, inputs, workdir, heard_all)
        STAGE.check(draft, inputs)
        assert sorted(path.name for path in workdir.iterdir()) == ["sm89.plan", "sm89.plan.json"]
        return draft, EngineRecord.read(draft.sidecar)

    return compile_


@pytest.mark.usefixtures("in_process")
class TestNull:
    def test_a_plan_and_its_record(self, go):
        draft, record = go(conv_net(), shapes=BATCHES)
        assert (draft.kind, draft.target, draft.names) == ("engine", "sm89", ("sm89.plan", "sm89.plan.json"))
        assert (record.flavor, record.target) == ("null", "sm89")
        assert [spec.name for spec in record.io.inputs] == ["x"]

    def test_what_the_builder_was_asked_for_is_kept(self, go):
        _, record = go(conv_net(), shapes=BATCHES, build={"opt_level": 2, "workspace": "1G"})
        assert record.options is not None
        assert (record.options.opt_level, record.options.workspace) == (2, 1 << 30)

    def test_digests_say_which_plan_it_is_and_which_graph_it_was_built_from(self, go, table):
        lowered = table(lowered=conv_net()).artifacts["lowered"]
        draft, record = go(conv_net(), shapes=BATCHES)
        assert record.digests == {
            "plan": hashlib.sha256(draft.path.read_bytes()).hexdigest(),
            "lowered": lowered.digest,
        }

    def test_every_profile_is_written_down(self, go):
        large = {"x": {"min": [8, 3, 8, 8], "opt": [16, 3, 8, 8], "max": [32, 3, 8, 8]}}
        _, record = go(conv_net(), shapes=(BATCHES, large))
        assert [profile["x"].opt[0] for profile in record.profiles] == [2, 16]

    def test_shapes_are_looked_at_first(self, go):
        with pytest.raises(InputError, match="is dynamic, and no shapes were given"):
            go(conv_net())
        with pytest.raises(InputError, match="no such input"):
            go(conv_net(), shapes={"z": BATCHES["x"]})
        go(conv_net(batch="2"))

    def test_a_refusal_is_a_build_error_with_its_remedy(self, go, monkeypatch, workdir):
        monkeypatch.setattr(Null, "refuses", lambda *args: Refusal("too blue", "paint it red"))
        with pytest.raises(BuildError, match="sm89: too blue") as caught:
            go(conv_net(), shapes=BATCHES)
        assert caught.value.remedy == "paint it red"
        assert list(workdir.iterdir()) == []

    def test_what_the_builder_says_is_passed_on(self, go, monkeypatch):
        build = Null.build

        def chatty(*args):
            return build(*args).model_copy(update={"warnings": ("be careful",)})

        monkeypatch.setattr(Null, "build", chatty)
        draft, _ = go(conv_net(), shapes=BATCHES)
        assert STAGE.notes(draft.finish(), Inputs()) == ("null: be careful",)

    def test_where_the_engine_differs_is_noted(self, go, monkeypatch):
        build = Null.build
        report = computing(a="Int8").model_copy(update={"separate": ("x_quantize",)})
        monkeypatch.setattr(Null, "build", lambda *args: build(*args).model_copy(update={"report": report}))
        draft, record = go(conv_net(), shapes=BATCHES)
        assert record.notes == ("Q/DQ that became kernels of their own: x_quantize",)
        assert STAGE.notes(draft.finish(), Inputs()) == record.notes

    def test_it_needs_a_target(self, make_job, table, workdir, heard_all):
        with pytest.raises(InternalError):
            run_stage(STAGE, make_job(shapes=BATCHES), table(lowered=conv_net()), workdir, heard_all)


@pytest.mark.parametrize(
    ("behavior", "error"),
    [("fail", BuildError), ("crash", WorkerError), ("no-file", StageError), ("short-file", StageError)],
)
def test_builds_that_go_wrong_in_their_own_process(go, monkeypatch, behavior, error):
    original = Null.__init__
    monkeypatch.setattr(Null, "__init__", lambda self: original(self, NullBehavior(task=fault(behavior))))
    with pytest.raises(error):
        go(conv_net(), shapes=BATCHES)


class TestCheck:
    """What an engine must be, whoever built it."""

    @pytest.fixture
    def judge(self, tmp_path, table):
        def check(content=b"plan", *, report=None, lowered=(), inputs=("x",), outputs=("y",), sidecar=True):
            proto = model("(float[2] x) => (float[2] y) { y = Relu(x) }")
            path = save(proto, tmp_path / "given" / "lowered.onnx")
            record = LowerRecord(
                precision="int8", opset=19, counts={},
                nodes=tuple(NodeDecision(node=name, op="Conv", precision=p, reason="r") for name, p in lowered),
            )  # fmt: skip
            record.write(path.with_name("lowered.onnx.json"))
            artifact = artifact_from_file("lowered", path)
            if sidecar:
                entry = artifact_from_file("x", path.with_name("lowered.onnx.json")).files[0]
                artifact = type(artifact)("lowered", path.parent, (*artifact.files, entry))
            (tmp_path / "sm89.plan").write_bytes(content)
            io = IOContract(
                inputs=tuple(TensorSpec(name=name, dtype="float32", shape=(2,)) for name in inputs),
                outputs=tuple(TensorSpec(name=name, dtype="float32", shape=(2,)) for name in outputs),
            )
            EngineRecord(flavor="f", version="1", target="sm89", io=io, build_seconds=1, report=report).write(
                tmp_path / "sm89.plan.json"
            )
            STAGE.check(
                Draft("engine", tmp_path, ("sm89.plan", "sm89.plan.json"), "sm89"), Inputs({"lowered": artifact})
            )

        return check

    def test_a_sound_one(self, judge):
        judge()

    def test_an_empty_one(self, judge):
        with pytest.raises(StageError, match=r"sm89\.plan is missing or empty"):
            judge(b"")

    @pytest.mark.parametrize("names", [{"inputs": ()}, {"inputs": ("x", "z")}, {"outputs": ("z",)}])
    def test_one_with_other_inputs_or_outputs(self, judge, names):
        with pytest.raises(StageError, match=r"sm89\.plan: (in|out)puts are .*, the graph has"):
            judge(**names)


def computing(**nodes: str) -> EngineReport:
    """One product a node, which reads the type given."""
    layers = [
        EngineLayer(
            name=node, kind="gemm", nodes=(node,), inputs=(EngineTensor(name="x", type=word, dims=(2, 2)),)
        )
        for node, word in nodes.items()
    ]  # fmt: skip
    return EngineReport(source="test", layers=tuple(layers))


def test_what_its_key_holds(make_job):
    def key(**options):
        return STAGE.settings(make_job(**options))

    base_key = key()
    assert base_key == key(build={"time_limit": 5, "memory_limit": 10**9}) == key(precision="int8")
    assert base_key == key(latency={"duration": 9.0}) == key(tolerance={"atol": 1.0})
    changes = [key(shapes=BATCHES), key(build={"opt_level": 5}), key(build={"workspace": 1 << 30})]
    assert base_key not in changes
    assert changes[0] != key(shapes=[BATCHES, BATCHES])
    assert fingerprint_of(STAGE, make_job()) == {"null": null._VERSION}


# -- the real builder --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def needs_rtx():
    if base.missing("tensorrt-rtx") is not None:
        pytest.skip("needs tensorrt-rtx")


@pytest.mark.usefixtures("needs_rtx", "in_process")
@pytest.mark.parametrize(
    ("precision", "word"),
    [
        ("fp32", "Float"),
        ("fp16", "Half"),
        ("bf16", "BFloat16"),
        ("int8", "Int8"),
        ("fp8", "FP8"),
    ],
)
def test_engines_compute_in_the_precision_of_the_lowered_graph(
    make_job, table, workdir, heard_all, tmp_path, precision, word
):
    """The whole way from a float32 graph, so that what lowering writes is what the builder understands."""
    from trtpipe.stages.calibrate import Calibrate
    from trtpipe.stages.lower import Lower
    from trtpipe.stages.observe import Observe
    from trtpipe.stages.simplify import Simplify

    channels = 32  # tensor cores want multiples of 16
    proto = model(
        f"(float[N,{channels},16,16] x) => (float[N,{channels}] y) {{ c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) "
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, v, b) }",
        w=normal(channels, channels, 3, 3, scale=0.05), v=normal(channels, channels), b=normal(channels),
    )  # fmt: skip
    np.savez(tmp_path / "data.npz", x=normal(8, channels, 16, 16))
    shapes = {"x": {name: [size, channels, 16, 16] for name, size in (("min", 1), ("opt", 4), ("max", 8))}}
    job = make_job(precision=precision, shapes=shapes, backend="tensorrt-rtx").for_target(SM89)
    given = {"model": proto, "data": str(tmp_path / "data.npz")}
    for stage in (Simplify(), Observe(), Calibrate(), Lower()):
        if needs(stage, job):
            inputs = table(**given)
            folder = workdir / stage.name
            folder.mkdir()
            draft = run_stage(stage, job, inputs, folder, heard_all)
            stage.check(draft, inputs)
            given[draft.kind] = draft.path
    inputs = table(lowered=given["lowered"])
    sidecar = artifact_from_file("x", given["lowered"].with_name("lowered.onnx.json")).files[0]
    lowered = inputs.artifacts["lowered"]
    inputs = Inputs({"lowered": type(lowered)("lowered", lowered.folder, (*lowered.files, sidecar))})
    engines = workdir / "engines"
    engines.mkdir()
    draft = run_stage(STAGE, job, inputs, engines, heard_all)
    STAGE.check(draft, inputs)
    record = EngineRecord.read(draft.sidecar)
    assert word in record.precisions
    assert record.report is not None
    assert record.report.source == "builder log"
    assert record.report.conv_gemm_types == {word: 2}
    nodes = {node for layer in record.report.layers for node in layer.nodes}
    assert {
        node.node
        for node in LowerRecord.read(given["lowered"].with_name("lowered.onnx.json")).nodes
        if node.op in ("Conv", "Gemm")
    } <= nodes
    alone = ("x_quantize",) if precision in ("int8", "fp8") else ()  # nothing before it to fuse with
    assert record.report.separate == alone
    assert [(spec.name, spec.dtype, spec.shape[1:]) for spec in record.io.inputs] == [
        ("x", "float32", (channels, 16, 16))
    ]
    size = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}[precision]
    weights = (channels * channels * 9 + channels * channels) * size
    assert weights <= record.weight_bytes <= 1.5 * weights + 4096


@pytest.mark.usefixtures("needs_rtx", "in_process")
@pytest.mark.parametrize(("keep", "undone"), [(("c",), True), (("c", "s"), False)])
def test_a_convolution_kept_alone_is_computed_in_16_bits_and_the_record_says_so(
    make_job, table, workdir, heard_all, keep, undone
):
    """TensorRT-RTX 1.7 removes the casts around it: by the builder's log its weights are in Half."""
    from trtpipe.stages.lower import Lower

    proto = model(
        "(float[2,16,16,16] x) => (float[2,16,16,16] y) { a = Conv<pads=[1,1,1,1]>(x, u) b = Relu(a) "
        "c = Conv<pads=[1,1,1,1]>(b, v) s = Sigmoid(c) y = Conv<pads=[1,1,1,1]>(s, w) }",
        **{name: normal(16, 16, 3, 3, scale=0.1) for name in "uvw"},
    )  # fmt: skip
    for node in proto.graph.node:
        node.name = node.output[0]
    job = make_job(precision="fp16", keep=keep, backend="tensorrt-rtx").for_target(SM89)
    lowered = run_stage(Lower(), job, table(simplified=proto), workdir, heard_all)
    sidecar = artifact_from_file("x", lowered.path.with_name("lowered.onnx.json")).files[0]
    given = table(lowered=lowered.path).artifacts["lowered"]
    inputs = Inputs({"lowered": type(given)("lowered", given.folder, (*given.files, sidecar))})
    (workdir / "engines").mkdir()
    record = EngineRecord.read(run_stage(STAGE, job, inputs, workdir / "engines", heard_all).sidecar)
    assert record.report is not None
    [kernel] = [layer for layer in record.report.kernels if layer.is_conv_gemm and "c" in layer.nodes]
    assert [tensor.type for tensor in kernel.constants if len(tensor.dims) == 4 and tensor.dims[2:] == (3, 3)] == [
        "Half" if undone else "Float"
    ]
    assert any("nodes left in float32 in 16 bits: c;" in note for note in record.notes) is undone


@pytest.mark.usefixtures("needs_rtx")
def test_integer_inputs_and_masks_build_too(go, make_job):
    shapes = {name: {"min": [1, 2], "opt": [2, 8], "max": [4, 16]} for name in ("ids", "mask")}
    _, record = go(embedding(), shapes=shapes, backend="tensorrt-rtx")
    assert [(spec.name, spec.dtype) for spec in record.io.inputs] == [("ids", "int64"), ("mask", "int64")]


class TestKey:
    @pytest.fixture
    def key(self, make_job):
        def of(**options):
            return Compile().settings(make_job(build=options).for_target(find_target("sm89")))

        return of

    @pytest.mark.parametrize(
        "options",
        [{"workspace": "1G"}, {"opt_level": 1}, {"weight_streaming": True}, {"refit": True}, {"strip_weights": True},
         {"sparsity": True}, {"max_aux_streams": 0}, {"timing_cache": False}, {"version_compatible": True},
         {"hardware_compatibility": "ampere+"}, {"dla_core": 0}, {"dla_core": 0, "gpu_fallback": True}],
    )  # fmt: skip
    def test_every_option_that_may_change_the_engine_counts(self, key, options):
        assert key(**options) != key()

    def test_limits_do_not(self, key):
        assert key(time_limit="1min", memory_limit="1G") == key()

    def test_plug_ins_are_an_input(self, key, make_job):
        assert key(plugins=("a.so",)) == key()
        assert "plugins" in consumed(STAGE, make_job().for_target(find_target("sm89")))

    def test_targets_that_share_a_plan_count(self, make_job):
        job = make_job(targets=["sm86", "sm89"])
        alone = Compile().settings(job.for_target(job.targets[0]))
        assert Compile().settings(job.for_target(job.targets[0], job.targets)) != alone
        assert Compile().settings(job.for_target(job.targets[0], job.targets[:1])) == alone
