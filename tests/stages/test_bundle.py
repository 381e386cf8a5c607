from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fixtures_stages import needs, run_stage
from models import conv_net, save

import trtpipe
from trtpipe.accuracy.reports import ParityReport
from trtpipe.artifact import Draft, IOContract
from trtpipe.calibration.data_summary import DataSummary
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.source import OnnxSource
from trtpipe.errors import StageError
from trtpipe.latency.reports import LatencyReport
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.report.manifest import Manifest
from trtpipe.report.stage_records import ExportRecord, LowerRecord
from trtpipe.report.verdict import Failure
from trtpipe.stages.bundle import Bundle
from trtpipe.stages.stage import Inputs

STAGE = Bundle()
PARITY = ParityReport(
    precision="int8", reference="model", data="d", data_digest="0", synthetic=True, feeds=1, samples=1, comparisons=(),
    reasons=("output 'y' differs",), passed=False,
)  # fmt: skip
LATENCY = LatencyReport(machine={}, measurements=(), notes=("measured on the CPU",))
SUMMARY = DataSummary(source="calib.npz", samples=9, feeds=9, digest="d" * 64, inputs={})


@pytest.fixture
def inputs(tmp_path):
    """Everything a bundle can list."""
    folder = tmp_path / "given"
    made = {}
    for label in ("model", "lowered"):
        path = save(conv_net(), folder / f"{label}.onnx")
        made[label] = artifact_from_file(label, path)
    empty = IOContract(inputs=(), outputs=())
    ExportRecord(exporter="e", opset=20, nodes=1, weight_bytes=1, contract=empty, notes=("odd producer",)).write(
        folder / "model.onnx.json"
    )
    LowerRecord(precision="int8", opset=19, counts={}, nodes=(), notes=("nothing lowered",)).write(folder / "l.json")
    entry = artifact_from_file("x", folder / "model.onnx.json").files[0]
    model = made["model"]
    made["model"] = type(model)("model", folder, (*model.files, entry))
    for kind, record in (
        ("ranges", Ranges(method="max", samples=9, data_summary=SUMMARY, tensors={})),
        ("parity", PARITY),
        ("latency", LATENCY),
    ):
        record.write(folder / f"{kind}.json")
        made[kind] = artifact_from_file(kind, folder / f"{kind}.json")
    (folder / "sm89.plan").write_bytes(b"plan")
    made["engine:sm89"] = artifact_from_file("engine", folder / "sm89.plan", "sm89")
    return Inputs(made, keys={"lowered": "k" * 64})


@pytest.fixture
def go(make_job, workdir, heard_all):
    def bundle(inputs, **options):
        job = make_job(OnnxSource(workdir / "net.onnx"), **options)
        draft = run_stage(STAGE, job, inputs, workdir, heard_all)
        STAGE.check(draft, inputs)
        assert draft.names == ("manifest.json",)
        return Manifest.read(draft.path)

    return bundle


def test_every_artifact_with_its_digests(go, inputs):
    manifest = go(inputs, precision="int8")
    assert [entry.label for entry in manifest.artifacts] == list(inputs.artifacts)
    for entry, artifact in zip(manifest.artifacts, inputs.artifacts.values(), strict=True):
        assert (entry.digest, entry.files) == (artifact.digest, artifact.files)
    assert {entry.label: entry.key for entry in manifest.artifacts if entry.key} == {"lowered": "k" * 64}


def test_what_was_asked_for_and_with_what_it_was_made(go, inputs):
    manifest = go(inputs, precision="int8", targets=["rtx4090", "sm120"], recipe={"method": "max"})
    assert (manifest.trtpipe, manifest.source, manifest.precision) == (trtpipe.__version__, "net.onnx", "int8")
    assert (manifest.backend, manifest.targets) == ("null", ("sm89", "sm120"))
    assert manifest.settings["calibration"]["method"] == "max"
    assert manifest.settings["profile"]["precision"] == "int8"
    assert {"onnx", "onnxruntime", "numpy", "null"} <= set(manifest.toolchain)
    assert "calibration" not in go(inputs, precision="fp16").settings


def test_verdict_notes_and_the_account_of_the_data(go, inputs):
    manifest = go(inputs, precision="int8")
    verdict = manifest.verdict
    assert (verdict.accuracy.outcome, verdict.latency.outcome) == ("failed", "not judged")
    assert manifest.passed is False
    assert manifest.notes == ("model: odd producer", "latency: measured on the CPU")  # lowered came without a sidecar
    assert manifest.calibration.samples == 9


def test_neither_time_nor_place(go, inputs, workdir, tmp_path):
    contents = []
    for _ in range(2):
        go(inputs)
        contents.append((workdir / "manifest.json").read_bytes())
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in contents[0]


def test_a_small_bundle(go, inputs):
    few = Inputs({"lowered": inputs.artifacts["lowered"]})
    manifest = go(few)
    assert (manifest.passed, manifest.notes, manifest.calibration) == (None, (), None)


def test_what_failed_before_it_is_in_the_verdict(go, inputs):
    failure = Failure(step="measure", reason="the GPU fell off the bus", exit_code=6)
    assert go(replace(inputs, failures=(failure,))).verdict.failures == (failure,)


def test_an_artifact_that_is_not_listed_is_noticed(go, inputs, workdir):
    go(inputs)
    document = json.loads((workdir / "manifest.json").read_text())
    document["artifacts"] = [entry for entry in document["artifacts"] if entry["label"] != "lowered"]
    (workdir / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(StageError, match=r"manifest\.json misses \['lowered'\]"):
        STAGE.check(Draft("manifest", workdir, ("manifest.json",)), inputs)


def test_what_its_key_holds(make_job, tmp_path):
    def key(source="a/net.onnx", **options):
        return STAGE.settings(make_job(OnnxSource(tmp_path / source), **options))

    assert key() == key("b/net.onnx") == key(recipe={"percentile": 99.0})  # fp32 has no ranges
    assert key() not in [key("other.onnx"), key(precision="fp16"), key(simplify=False), key(backend="tensorrt-rtx")]
    assert key(precision="int8") != key(precision="int8", recipe={"percentile": 99.0})
    assert needs(STAGE, make_job())
