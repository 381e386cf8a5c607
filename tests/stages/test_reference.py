"""PyTorch's own outputs, and what verify makes of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from fixtures_stages import run_stage
from models import conv_net, model, normal, save

from trtpipe.accuracy.reports import ParityReport
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.source import ModuleSource
from trtpipe.errors import InputError
from trtpipe.exporter import process
from trtpipe.pipeline.pipeline import stages_for
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.reference.pytorch_outputs import load_reference, save_reference
from trtpipe.stages import reference
from trtpipe.stages.reference import Reference
from trtpipe.stages.stage import Inputs
from trtpipe.stages.verify import Verify

STAGE = Reference()
FACTORY = """
import torch
class Net(torch.nn.Module):
    def forward(self, x, scale):
        return {"y": x * scale + 1, "best": (x * scale).argmax(dim=1)}
def net():
    return Net(), (torch.ones(2, 3), torch.ones(1))
def broken():
    class Broken(Net):
        def forward(self, x, scale):
            raise ValueError("no")
    return Broken(), ()
"""


def graph(offset: float = 1.0) -> onnx.ModelProto:
    return model(
        "(float[N,3] x, float[1] scale) => (float[N,3] y, int64[N] best) "
        "{ p = Mul(x, scale) y = Add(p, one) best = ArgMax<axis=1, keepdims=0>(p) }",
        one=np.float32(offset),
    )


@pytest.fixture
def go(make_job, table, workdir, tmp_path, heard_all, monkeypatch):
    """The stage's artifact for a source, on 40 samples."""
    np.savez(tmp_path / "data.npz", x=normal(40, 3), scale=normal(40, 1))
    (tmp_path / "net.py").write_text(FACTORY)

    def call(task, request, reply, **rest):
        return reply.model_validate(reference.run_saved(request, heard_all.advance).to_dict())

    monkeypatch.setattr(process, "call_user", call)

    def run(source=None, data=True):
        job = make_job(source or f"{tmp_path / 'net.py'}:net", shapes={})
        inputs = table(model=graph(), data=str(tmp_path / "data.npz") if data else "")
        draft = run_stage(STAGE, job, inputs, workdir, heard_all)
        STAGE.check(draft, inputs)
        assert [path.name for path in workdir.iterdir()] == ["reference.npz"]
        return job, draft, draft.observed.files

    return run


def test_outputs_are_pytorchs_under_the_graphs_names(go, tmp_path):
    _, draft, read = go()
    feeds, outputs = load_reference(draft.path)
    assert 0 < len(feeds) == len(outputs) <= 16
    for feed, found in zip(feeds, outputs, strict=True):
        np.testing.assert_allclose(found["y"], feed["x"] * feed["scale"] + 1, rtol=1e-6)
        np.testing.assert_array_equal(found["best"], (feed["x"] * feed["scale"]).argmax(axis=1))
    assert str(tmp_path / "net.py") in read


def test_a_module_in_hand_runs_here_and_keeps_its_mode(go):
    class Net(torch.nn.Module):
        def forward(self, x, scale):
            return x * scale + (2 if self.training else 1), (x * scale).argmax(dim=1)

    module = Net().train()
    _, draft, _ = go(ModuleSource(module, ()))
    feeds, outputs = load_reference(draft.path)
    np.testing.assert_allclose(outputs[0]["y"], feeds[0]["x"] * feeds[0]["scale"] + 1, rtol=1e-6)
    assert module.training


def test_an_onnx_source_has_no_such_stage(make_job, tmp_path):
    job = make_job(save(conv_net(), tmp_path / "net.onnx"))
    assert STAGE.settings(job) == NotNeeded(reason="the source is ONNX")
    assert "reference" not in [stage.name for stage in stages_for(job)]


def test_it_runs_for_pytorch_sources(make_job, tmp_path):
    (tmp_path / "net.py").write_text(FACTORY)
    assert "reference" in [stage.name for stage in stages_for(make_job(f"{tmp_path / 'net.py'}:net"))]


def test_a_forward_that_fails_is_the_users(go, tmp_path):
    with pytest.raises(InputError, match=r"Broken\.forward fails"):
        go(f"{tmp_path / 'net.py'}:broken")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{}"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "r.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"r\.npz: not a file of reference outputs"):
        load_reference(tmp_path / "r.npz")


def test_feeds_and_outputs_come_back_in_order(tmp_path):
    feeds = [{"a/b": np.array([i]), "x": np.zeros((2, i), np.float32)} for i in range(12)]
    save_reference(tmp_path / "r.npz", feeds, feeds[:1])
    back, outputs = load_reference(tmp_path / "r.npz")
    assert [int(feed["a/b"][0]) for feed in back] == list(range(12))
    assert back[3]["x"].shape == (2, 3)
    assert len(outputs) == 1


class TestVerify:
    @pytest.fixture
    def report(self, go, workdir, tmp_path, heard_all):
        def verify(**models):
            job, draft, _ = go()
            reference = draft.path.rename(tmp_path / "reference.npz")
            artifacts = {name: artifact_from_file(name, save(proto, tmp_path / "g" / f"{name}.onnx"))
                         for name, proto in models.items()}  # fmt: skip
            artifacts["reference"] = artifact_from_file("reference", reference)
            made = run_stage(Verify(), job, Inputs(artifacts), workdir, heard_all)
            return ParityReport.read(made.path)

        return verify

    def test_every_artifact_is_compared_with_pytorch(self, report):
        found = report(model=graph(), lowered=graph())
        assert [(c.artifact, c.against, c.passed) for c in found.pytorch] == [
            ("model", "pytorch", True),
            ("lowered", "pytorch", True),
        ]
        assert found.passed

    def test_a_wrong_export_is_named_although_all_graphs_agree(self, report):
        found = report(model=graph(1.5), lowered=graph(1.5))
        assert [c.passed for c in found.comparisons] == [True]
        assert not found.passed
        assert found.failing_stage == "export"
        assert "model: output 'y' differs from pytorch: mean 0.5" in found.reasons[0]


def test_arrays_in_bfloat16_come_back(tmp_path):
    import ml_dtypes

    feeds = [{"x:y/z": np.array([1.5, 2.5], ml_dtypes.bfloat16), "n": np.array([3])}]
    save_reference(tmp_path / "r.npz", feeds, feeds)
    for side in load_reference(tmp_path / "r.npz"):
        assert side[0]["x:y/z"].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(side[0]["x:y/z"].astype(np.float32), [1.5, 2.5])
        assert side[0]["n"].tolist() == [3]
