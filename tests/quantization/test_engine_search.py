"""``best``: INT8 where engines show that it is profitable."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixtures_stages import fingerprint_of, run_stage
from models import conv_net, model, run, save, weights_of

from trtpipe.backends import base
from trtpipe.backends.null import Null
from trtpipe.calibration.ranges import Ranges, TensorRange
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineReport
from trtpipe.errors import BuildError, OutOfMemory, OutOfTime
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.lower import Lower

STAGE = Lower()
IMAGES = {"x": {name: [2, 3, 8, 8] for name in ("min", "opt", "max")}}


def wide(size: int = 2048) -> onnx.ModelProto:
    """Two layers whose weights are nearly all that moves."""
    rng = np.random.default_rng(0)
    weight = [rng.standard_normal((size, size), dtype=np.float32) / size**0.5 for _ in range(2)]
    return model(
        f"(float[N,{size}] x) => (float[N,{size}] y) {{ m = MatMul(x, w) r = Relu(m) y = MatMul(r, v) }}",
        w=weight[0], v=weight[1],
    )  # fmt: skip


@pytest.fixture
def go(make_job, table, workdir, heard_all, tmp_path):
    """(graph, record) of a model lowered to ``best``."""

    def lower(proto: onnx.ModelProto, feed: dict[str, np.ndarray], **options):
        inner = [name for node in proto.graph.node for name in node.output]
        shown = save(proto, tmp_path / "shown.onnx")
        values = {**feed, **run(with_all_outputs(onnx.load(shown), inner), feed)}
        amax = {name: float(np.abs(value).max()) for name, value in values.items()}
        found = {name: TensorRange(amax=a, method="max", minimum=-a, maximum=a) for name, a in amax.items()}
        Ranges(method="max", samples=8, tensors=found).write(tmp_path / "ranges.json")
        inputs = table(simplified=proto, ranges=tmp_path / "ranges.json")
        draft = run_stage(STAGE, make_job(precision="best", **options), inputs, workdir, heard_all)
        STAGE.check(draft, inputs)
        assert sorted(path.name for path in workdir.iterdir()) == sorted(draft.names), "trials leave nothing behind"
        graph = onnx.load(draft.path)
        onnx.checker.check_model(graph, full_check=True)
        return graph, LowerRecord.read(draft.sidecar)

    return lower


def with_all_outputs(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    return proto


def images() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)}


def rows(size: int = 2048) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(1, size)).astype(np.float32)}


class TestWithoutComparing:
    def test_a_back_end_that_is_not_compared(self, go):
        graph, record = go(conv_net(), images(), shapes=IMAGES)
        assert record.trials == ()
        assert record.notes == ("null builds are not compared: every node that may computes in int8",)
        assert {"int8", "float16"} <= set(record.counts)
        assert any(array.dtype == np.int8 for array in weights_of(graph).values())

    def test_no_target(self, go):
        _, record = go(conv_net(), images(), shapes=IMAGES, targets=[])
        assert record.notes[0].startswith("no target is named")


class TestKey:
    def test_what_is_built_for_counts_where_it_is_built(self, make_job):
        def key(**options):
            job = make_job(precision="best", **options)
            return STAGE.settings(job), fingerprint_of(STAGE, job)

        assert key() == key(targets=["sm86"]), "null engines are not compared"
        if base.missing("tensorrt-rtx") is None:
            rtx = [key(backend="tensorrt-rtx", **more) for more in ({}, {"targets": ["sm86"]}, {"shapes": IMAGES})]
            assert key() not in rtx
            assert rtx[0] not in rtx[1:]
            assert "tensorrt-rtx" in rtx[0][1]
            assert fingerprint_of(STAGE, make_job(precision="int8", backend="tensorrt-rtx")) == {}


class TestWhatBuildersDo:
    """With a null back-end that reports layers."""

    @pytest.fixture
    def builder(self, monkeypatch):
        monkeypatch.setattr(Null, "quick_reports", True)

        def use(build):
            monkeypatch.setattr(Null, "build", build)

        return use

    @staticmethod
    def record(backend, request, progress):
        from trtpipe.preflight.onnx_io import read_contract

        request.plan.write_bytes(b"plan")
        contract = read_contract(request.model)
        assert contract.inputs[0].shape == (2, 3, 8, 8), "typical sizes, so that nothing is unknown"
        report = EngineReport(source="s", layers=())
        return EngineRecord(flavor="null", version="1", target="sm89", io=contract, build_seconds=0, report=report)

    def test_engines_that_cost_the_same_stay_in_float16(self, go, builder):
        builder(self.record)
        graph, record = go(conv_net(), images(), shapes=IMAGES)
        assert set(record.counts) == {"float16"}
        assert [trial.nodes for trial in record.trials[:1]] == [0]
        assert not any(array.dtype == np.int8 for array in weights_of(graph).values())

    def test_only_among_the_nodes_that_may(self, go, builder):
        builder(self.record)
        _, record = go(conv_net(), images(), shapes=IMAGES, int8_nodes=["conv*"])
        assert {trial.nodes for trial in record.trials} == {0, 1}

    def test_the_same_graph_is_built_once(self, go, builder):
        built = []

        def build(*args):
            built.append(args[1].model.read_bytes())
            return self.record(*args)

        builder(build)
        go(model("(float[2,3,8,8] x) => (float[2,3,8,4] y) { y = MatMul(x, w) }", w=np.eye(8, 4, dtype=np.float32)),
           images(), shapes=IMAGES)  # fmt: skip
        assert len(built) == 2, "no convolution, so one style"

    def test_nothing_can_be_built(self, go, builder, heard_all):
        def fail(*args):
            raise BuildError("no luck", "try again")

        builder(fail)
        _, record = go(conv_net(), images(), shapes=IMAGES)
        assert record.trials == ()
        assert "engines could not be compared" in record.notes[0]
        assert record.notes[0].endswith(": no luck")
        assert any("no luck" in note for note in heard_all.notes)

    @pytest.mark.parametrize("error", [OutOfTime, OutOfMemory])
    def test_a_limit_of_the_machine_does_not_choose(self, go, builder, error):
        def fail(*args):
            if b"QuantizeLinear" in args[1].model.read_bytes():
                raise error("the limit was reached", "raise it")
            return self.record(*args)

        builder(fail)
        with pytest.raises(error, match="the limit was reached"):
            go(conv_net(), images(), shapes=IMAGES)

    def test_only_float16_can_be_built(self, go, builder):
        def fail(*args):
            if b"QuantizeLinear" in args[1].model.read_bytes():
                raise BuildError("no luck with int8", "try again")
            return self.record(*args)

        builder(fail)
        _, record = go(conv_net(), images(), shapes=IMAGES)
        assert set(record.counts) == {"float16"}
        assert record.notes == ("no engine with int8 could be built for sm89, all stays in float16: no luck with int8",)

    def test_dynamic_inputs_without_a_typical_size(self, go, builder):
        builder(self.record)
        _, record = go(conv_net(), images())
        assert record.notes == ("engines were not compared: input 'x' has no typical shape",)


@pytest.mark.usefixtures("in_process")
@pytest.mark.skipif(base.missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")
class TestRealEngines:
    def test_int8_where_weights_are_all_that_moves(self, go):
        shapes = {"x": {"min": [1, 2048], "opt": [1, 2048], "max": [4, 2048]}}
        graph, record = go(wide(), rows(), shapes=shapes, backend="tensorrt-rtx")
        assert record.notes[0].startswith("int8 is profitable on sm89 for 2 of 2 nodes")
        assert {node.precision for node in record.nodes if node.op == "MatMul"} == {"int8"}
        high = next(trial for trial in record.trials if not trial.nodes)
        low = next(trial for trial in record.trials if trial.nodes)
        assert high.weight_bytes > 2 * 2048 * 2048 * 2 > 1.9 * low.weight_bytes
        wanted, found = run(wide(), rows())["y"], run(graph, rows())["y"]
        assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.999

    def test_float16_where_kernels_are_all_that_counts(self, go):
        graph, record = go(conv_net(), images(), shapes=IMAGES, backend="tensorrt-rtx")
        assert record.notes[0].startswith("int8 is not profitable on sm89, all stays in float16")
        reasons = {node.node: node.reason for node in record.nodes if node.op in ("Conv", "Gemm")}
        assert any(
            reason.endswith("not quantized: costs less in float16 than in int8 on sm89") for reason in reasons.values()
        )
        assert {node.precision for node in record.nodes if node.op in ("Conv", "Gemm")} == {"float16"}
        assert not any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
        kernels = [trial.kernels for trial in record.trials]
        assert kernels[0] <= min(kernels[1:]), "quantizing saves no kernel"
