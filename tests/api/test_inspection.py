"""``trtpipe.inspect``: files are known by their content, whoever named them."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.parser import parse_model

import trtpipe
from trtpipe.accuracy.reports import ParityReport
from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.backends import compatibility
from trtpipe.backends.base import Refusal
from trtpipe.backends.engine_file import RTX_TARGETS
from trtpipe.backends.null import NullEngine
from trtpipe.calibration.statistics import Statistics, TensorStatistics
from trtpipe.calibration.statistics_file import save_statistics
from trtpipe.engine.record import EngineRecord, ProgramRecord
from trtpipe.errors import InputError
from trtpipe.passes.decisions import NodeDecision
from trtpipe.report.stage_records import LowerRecord

if TYPE_CHECKING:
    from pathlib import Path

IO = IOContract(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("N", 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("N", 2)),),
)


def rtx_plan(path: Path, target: str = "sm89", *, cut: int = 0) -> Path:
    """A file with the header of a TensorRT-RTX 1.7.1.116 plan."""
    size = 100
    head = (
        b"vtrt" + bytes(4) + struct.pack("<QQ4B4sQQQQ", 0, size, 1, 7, 1, 116, bytes(4), RTX_TARGETS[target], 0, 0, 12)
    )
    path.write_bytes(head.ljust(size, b"\0")[: size - cut])
    return path


def record(target: str = "sm89", flavor: str = "tensorrt-rtx") -> EngineRecord:
    return EngineRecord(flavor=flavor, version="1.7.1.116", target=target, io=IO, build_seconds=1.0)


def saved(text: str, path: Path, **weights: np.ndarray) -> Path:
    proto = parse_model(f'<ir_version: 10, opset_import: ["": 20, "custom": 3]> g {text}')
    proto.producer_name, proto.producer_version = "pytorch", "2.13"
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(proto, path)
    return path


class TestModel:
    def test_figures(self, tmp_path: Path) -> None:
        path = saved(
            "(float[N,4] x) => (float[N,2] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
            "h = MatMul(d, w) c = Cast<to=1>(h) k = custom.Odd(c) y = Relu(k) }",
            tmp_path / "whatever.bin",
            w=np.zeros((4, 2), np.float32),
            s=np.float32(0.5).reshape(()),
            z=np.int8(0).reshape(()),
        )
        found = trtpipe.inspect(path)
        graph = found.graph
        assert graph is not None
        assert (found.kind, found.size) == ("model", path.stat().st_size)
        assert graph.opsets == {"ai.onnx": 20, "custom": 3}
        assert graph.producer == "pytorch 2.13"
        assert graph.contract == IO
        assert graph.nodes == 6
        assert graph.operators["custom.Odd"] == graph.operators["MatMul"] == 1
        assert (graph.quantize, graph.dequantize, graph.casts) == (1, 1, 1)
        assert graph.weights == {"float32": 4 * 2 * 4 + 4, "int8": 1}
        assert graph.weight_bytes == 37
        assert graph.external == ()

    def test_subgraphs_and_functions_count(self, tmp_path: Path) -> None:
        path = saved(
            "(bool c, float[2] x) => (float[2] y) { y = If (c) <then_branch = t () => (float[2] a) "
            "{ k = Constant<value = float[2] {1.0, 2.0}>() a = Add(x, k) }, else_branch = e () => (float[2] b) "
            "{ b = Neg(x) }> }",
            tmp_path / "m.onnx",
        )
        proto = onnx.load(path)
        body = [helper.make_node("Exp", ["i"], ["o"])]
        proto.functions.append(helper.make_function("custom", "F", ["i"], ["o"], body, [helper.make_opsetid("", 20)]))
        onnx.save(proto, path)
        graph = trtpipe.inspect(path).graph
        assert graph is not None
        assert graph.operators == {"If": 1, "Constant": 1, "Add": 1, "Neg": 1, "Exp": 1}
        assert graph.weights == {"float32": 8}

    @pytest.mark.parametrize(
        ("code", "count", "size"),
        [("INT4", 5, 3), ("BFLOAT16", 5, 10), ("FLOAT8E4M3FN", 5, 5), ("BOOL", 5, 5), ("DOUBLE", 5, 40)],
    )
    def test_weights_of_every_width(self, tmp_path: Path, code: str, count: int, size: int) -> None:
        path = saved("(float[1] x) => (float[1] y) { y = Relu(x) }", tmp_path / "m.onnx")
        proto = onnx.load(path)
        proto.graph.initializer.add(name="w", data_type=getattr(onnx.TensorProto, code), dims=[count])
        onnx.save(proto, path)
        graph = trtpipe.inspect(path).graph
        assert graph is not None
        assert graph.weight_bytes == size

    def test_external_weights_are_named_and_stay_on_disk(self, tmp_path: Path) -> None:
        path = saved("(float[4] x) => (float[4] y) { y = Add(x, w) }", tmp_path / "m.onnx", w=np.ones(4, np.float32))
        proto = onnx.load(path)
        onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
        graph = trtpipe.inspect(path).graph
        assert graph is not None
        assert graph.external == ("m.data",)
        assert graph.weight_bytes == 16
        (tmp_path / "m.data").unlink()
        with pytest.raises(InputError, match="missing"):
            trtpipe.inspect(path)

    def test_decisions_come_from_the_file_beside_it(self, tmp_path: Path) -> None:
        path = saved("(float[1] x) => (float[1] y) { y = Relu(x) }", tmp_path / "lowered.onnx")
        assert trtpipe.inspect(path).lowered is None
        decision = NodeDecision(node="r", op="Relu", precision="float16", reason="because")
        written = LowerRecord(precision="fp16", opset=20, counts={"float16": 1}, nodes=(decision,))
        written.write(tmp_path / "lowered.onnx.json")
        assert trtpipe.inspect(path).lowered == written

    @pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"format": "someone else"}'])
    def test_another_program_s_file_beside_it_is_ignored(self, tmp_path: Path, content: str) -> None:
        path = saved("(float[1] x) => (float[1] y) { y = Relu(x) }", tmp_path / "m.onnx")
        (tmp_path / "m.onnx.json").write_text(content)
        assert trtpipe.inspect(path).graph is not None

    def test_a_record_of_another_schema_beside_it_is_named(self, tmp_path: Path) -> None:
        path = saved("(float[1] x) => (float[1] y) { y = Relu(x) }", tmp_path / "lowered.onnx")
        LowerRecord(precision="fp16", opset=20, counts={}, nodes=()).write(tmp_path / "lowered.onnx.json")
        content = json.loads((tmp_path / "lowered.onnx.json").read_text())
        (tmp_path / "lowered.onnx.json").write_text(json.dumps(content | {"schema_version": 1}))
        found = trtpipe.inspect(path)
        assert found.lowered is None
        (note,) = found.notes
        assert "lowered.onnx.json: is of schema 1" in note


class TestEngine:
    def test_header_and_the_file_beside_it(self, tmp_path: Path) -> None:
        path = rtx_plan(tmp_path / "model.bin")
        alone = trtpipe.inspect(path)
        assert alone.plan is not None
        assert (alone.kind, alone.flavor, alone.targets, alone.notes) == ("engine", "tensorrt-rtx", ("sm89",), ())
        assert (alone.plan.version, alone.plan.weight_bytes) == ("1.7.1.116", 12)
        record().write(tmp_path / "model.bin.json")
        both = trtpipe.inspect(path)
        assert both.engine == record()
        assert both.notes == ()

    def test_what_keeps_it_from_running_here_is_told_without_loading_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            compatibility, "missing", lambda name: Refusal("it needs the package 'tensorrt_rtx'", "install it")
        )
        monkeypatch.setattr("trtpipe.backends.gpu.gpus", lambda: ())
        path = rtx_plan(tmp_path / "a.plan")
        found = trtpipe.inspect(path)
        assert found.obstacles[0] == "it needs the package 'tensorrt_rtx'; install it"
        assert found.obstacles[1].startswith("this machine has no NVIDIA GPU")
        record().model_copy(update={"digests": {"plan": "0" * 64}}).write(tmp_path / "a.plan.json")
        assert trtpipe.inspect(path).notes == (
            "its content is not that of the engine in its record: the digests differ",
        )

    def test_contradictions_are_noted(self, tmp_path: Path) -> None:
        path = rtx_plan(tmp_path / "a.plan", cut=1)
        record("sm120", "tensorrt").write(tmp_path / "a.plan.json")
        notes = trtpipe.inspect(path).notes
        assert len(notes) == 3
        for words in ("truncated", "says tensorrt,", "says sm120, the engine is for sm89"):
            assert any(words in note for note in notes)

    def test_stand_in_of_the_null_back_end(self, tmp_path: Path) -> None:
        NullEngine(model="0" * 64, target="sm89", io=IO).write(tmp_path / "a.plan")
        found = trtpipe.inspect(tmp_path / "a.plan")
        assert (found.kind, found.flavor, found.targets) == ("engine", "null", ("sm89",))


class TestReports:
    def test_record_is_given_as_it_was_written(self, tmp_path: Path) -> None:
        report = ParityReport(
            precision="fp32",
            reference="model",
            data="x",
            data_digest="",
            synthetic=True,
            feeds=1,
            samples=1,
            comparisons=(),
            passed=True,
        )
        report.write(tmp_path / "renamed.txt")
        found = trtpipe.inspect(tmp_path / "renamed.txt")
        assert (found.kind, found.parity) == ("parity", report)

    def test_damaged_record_names_the_field(self, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text('{"comparisons": [], "reference": 3, "schema_version": 3}')
        with pytest.raises(InputError, match=r"p\.json: .*ParityReport"):
            trtpipe.inspect(tmp_path / "p.json")

    def test_statistics(self, tmp_path: Path) -> None:
        tensor = TensorStatistics()
        tensor.update(np.array([0.0, -1.0, 2.0, 0.0], np.float32))
        save_statistics(Statistics({"t": tensor}), tmp_path / "s")
        found = trtpipe.inspect(tmp_path / "s").statistics
        assert found is not None
        summary = found.tensors["t"]
        assert (summary.count, summary.zeros, summary.minimum, summary.maximum) == (4, 0.5, -1.0, 2.0)

    def test_every_section_survives_json(self, tmp_path: Path) -> None:
        found = trtpipe.inspect(saved("(float[1] x) => (float[1] y) { y = Relu(x) }", tmp_path / "m.onnx"))
        assert trtpipe.Inspection.model_validate_json(json.dumps(found.to_dict())) == found


def refused(path: Path) -> InputError | None:
    """Why ``path`` cannot be described; any other error passes and fails the test."""
    try:
        found = trtpipe.inspect(path)
    except InputError as error:
        return error
    assert found.size == path.stat().st_size
    return None


def archive(path: Path, **files: bytes) -> Path:
    """A ``.pt2`` file as PyTorch lays it out."""
    with zipfile.ZipFile(path, "w") as written:
        for name, content in {"archive_format": b"pt2", **files}.items():
            written.writestr(f"program/{name}", content)
    return path


class TestProgram:
    def test_what_pytorch_wrote(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        exported = torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(2, 4),))
        torch.export.save(exported, tmp_path / "p.pt2")
        found = trtpipe.inspect(tmp_path / "p.pt2")
        assert found.kind == "program"
        assert found.program is not None
        assert (found.program.torch, found.program.nodes) == (torch.__version__, 1)
        assert list(found.program.operators) == ["torch.ops.aten.linear.default"]
        assert found.program.weight_bytes == (4 * 2 + 2) * 4
        assert trtpipe.Inspection.model_validate_json(json.dumps(found.to_dict())) == found

    def test_what_trtpipe_wrote_beside_it(self, tmp_path: Path) -> None:
        graph = {"torch_version": "2.13.0", "graph_module": {"graph": {"nodes": []}}}
        path = archive(tmp_path / "program.pt2", **{"models/model.json": json.dumps(graph).encode()})
        ProgramRecord(exporter="torch 2.13.0", precision="fp16", contract=IO).write(tmp_path / "program.pt2.json")
        found = trtpipe.inspect(path)
        assert found.captured is not None
        assert (found.captured.precision, found.captured.contract) == ("fp16", IO)

    @pytest.mark.parametrize(
        "files",
        [{}, {"models/model.json": b"{"}, {"models/model.json": b"[]"}, {"models/model.json": b'{"torch_version": 1}'}],
    )
    def test_of_an_unknown_form(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        with pytest.raises(InputError, match=r"p\.pt2: a \.pt2 archive of an unknown form"):
            trtpipe.inspect(archive(tmp_path / "p.pt2", **files))


class TestRefused:
    def test_folder_without_a_manifest(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="a folder without a manifest"):
            trtpipe.inspect(tmp_path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file"):
            trtpipe.inspect(tmp_path / "x")

    def test_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="not a regular file"):
            trtpipe.inspect(tmp_path / "pipe")

    def test_deep_json(self, tmp_path: Path) -> None:
        (tmp_path / "deep").write_text('{"a":' * 100_000)
        with pytest.raises(InputError, match="not valid JSON"):
            trtpipe.inspect(tmp_path / "deep")

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        head=st.sampled_from(
            [b"", b"vtrt", b"ftrt", b"{", b'{"tensors": {}, "method": ', b"PK\x03\x04", b"\x08\x0a\x3a"]
        ),
        tail=st.binary(max_size=200),
    )
    def test_any_bytes_are_described_or_refused(self, tmp_path: Path, head: bytes, tail: bytes) -> None:
        path = tmp_path / "fuzz"
        path.write_bytes(head + tail)
        refusal = refused(path)
        assert refusal is None or refusal.message.startswith(str(path))

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_damaged_model_is_described_or_refused(self, tmp_path: Path, data: st.DataObject) -> None:
        path = saved(
            "(float[N,4] x) => (float[N,2] y) { y = MatMul(x, w) }", tmp_path / "m", w=np.ones((4, 2), np.float32)
        )
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        refused(path)
