from __future__ import annotations

import onnx
import pytest
from fixtures_stages import consumed, needs, run_stage
from models import conv_net, feed_for, run, save

from trtpipe.artifact import Draft, IOContract
from trtpipe.config.profile import ShapeRange
from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource, Pt2Source
from trtpipe.errors import InputError, InternalError, StageError
from trtpipe.report.stage_records import ExportRecord
from trtpipe.stages.export import Export
from trtpipe.stages.stage import Inputs

STAGE = Export()
SHAPES = {"x": {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}}


def test_an_onnx_file_is_checked_in_a_child_process(make_job, tmp_path, workdir, heard_all, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(conv_net(), tmp_path / "net.onnx")
    draft = run_stage(STAGE, make_job("net.onnx"), Inputs({}), workdir, heard_all)
    STAGE.check(draft, Inputs({}))
    assert (draft.kind, draft.names) == ("model", ("model.onnx", "model.onnx.json"))
    feed = feed_for(conv_net())
    assert (run(onnx.load(draft.path), feed)["y"] == run(conv_net(), feed)["y"]).all()
    assert sorted(path.name for path in workdir.iterdir()) == ["model.onnx", "model.onnx.json"]


@pytest.mark.usefixtures("in_process")
def test_a_bad_file_is_the_users(make_job, tmp_path, workdir, heard_all):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a" + bytes(100))
    with pytest.raises(InputError, match=r"net\.onnx"):
        run_stage(STAGE, make_job(tmp_path / "net.onnx"), Inputs({}), workdir, heard_all)


def test_without_a_source_there_is_nothing_to_export(make_job, workdir, heard_all):
    with pytest.raises(InternalError):
        run_stage(STAGE, make_job(None), Inputs({}), workdir, heard_all)


def test_a_model_without_outputs_is_refused(tmp_path):
    record = ExportRecord(exporter="e", opset=20, nodes=0, weight_bytes=0, contract=IOContract(inputs=(), outputs=()))
    record.write(tmp_path / "model.onnx.json")
    with pytest.raises(StageError, match="has no outputs"):
        STAGE.check(Draft("model", tmp_path, ("model.onnx", "model.onnx.json")), Inputs({}))


def test_what_its_key_holds(make_job, tmp_path):
    def key(source, **options):
        return STAGE.settings(make_job(source, **options))

    onnx_file = OnnxSource(tmp_path / "net.onnx")
    assert key(onnx_file) == key(onnx_file, shapes=SHAPES) == key(onnx_file, export={"opset": 18})
    for source in (FactorySource("net.py", "make"), Pt2Source(tmp_path / "net.pt2"), ModuleSource(object(), ())):
        base = key(source)
        assert base == key(source, precision="int8") == key(source, targets=["sm120"]) == key(source, keep=["a"])
        assert base not in [key(source, shapes=SHAPES), key(source, export={"opset": 18}),
                            key(source, export={"input_names": ["x"]})]  # fmt: skip
    assert consumed(STAGE, make_job(None)) == ("source",)
    assert needs(STAGE, make_job(None))


def test_a_program_must_admit_every_profile(make_job):
    small = {"x": {"min": [2, 4], "opt": [4, 4], "max": [8, 4]}}
    large = {"x": {"min": [1, 4], "opt": [16, 4], "max": [64, 4]}}
    key = STAGE.settings(make_job(FactorySource("net.py", "make"), shapes=(small, large)))
    assert key.program.shapes == {"x": ShapeRange(min=(1, 4), opt=(4, 4), max=(64, 4))}
    with pytest.raises(InputError, match="rank 2 and 1"):
        STAGE.settings(
            make_job(FactorySource("net.py", "make"), shapes=(small, {"x": {"min": [1], "opt": [1], "max": [1]}}))
        )
