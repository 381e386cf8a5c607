"""``trtpipe.compare_latency``: two graphs in turns on the CPU; two engines where no GPU is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from models import conv_net, embedding, save

import trtpipe
from trtpipe.artifact import IOContract
from trtpipe.backends import compatibility
from trtpipe.backends.engine_file import RTX_TARGETS
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.errors import InputError
from trtpipe.latency import alternating
from trtpipe.latency.reports import LatencyComparison

IO = IOContract(inputs=(), outputs=())


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(alternating, "_ROUND_SECONDS", 0.001)
    np.savez(tmp_path / "some.npz", x=np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32))

    def make(data="", **latency):
        profile = {"backend": "null", "targets": ["sm89"], "latency": {"warmup": 0.001, **latency}}
        recipe = {"evaluation": {"source": str(tmp_path / data), "batch": 2}} if data else {}
        return trtpipe.make_job(
            profile=trtpipe.DeploymentProfile.model_validate(profile),
            recipe=trtpipe.CalibrationRecipe.model_validate(recipe),
            settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
        )

    return make


@pytest.fixture
def net(tmp_path):
    return save(conv_net(), tmp_path / "net.onnx")


class TestGraphs:
    def test_a_graph_is_as_fast_as_itself(self, job, net, tmp_path):
        found = trtpipe.compare_latency(job("some.npz", batches=(1, 4)), net, net, tmp_path / "out")
        assert [pair.shapes["x"] for pair in found.pairs] == [(1, 3, 8, 8), (4, 3, 8, 8)]
        assert all(0.2 < pair.low <= pair.ratio <= pair.high < 5 for pair in found.pairs)
        assert all("some.npz" in pair.data for pair in found.pairs)
        assert not found.on_gpu
        assert "onnxruntime" in found.runner
        assert "no GPU latencies" in found.notes[0]
        assert LatencyComparison.read(tmp_path / "out" / "comparison.json") == found
        assert trtpipe.inspect(tmp_path / "out" / "comparison.json").comparison == found

    def test_bfloat16_which_the_cpu_cannot_compute_is_emulated(self, job, net, tmp_path):
        half = dataclasses.replace(job(), profile=trtpipe.DeploymentProfile(precision="bf16"))
        lowered = trtpipe.lower(half, net, tmp_path / "bf16.onnx").out
        [pair] = trtpipe.compare_latency(job(), net, lowered).pairs
        assert pair.new > 0

    def test_graphs_with_other_inputs_are_not_compared(self, job, net, tmp_path):
        with pytest.raises(InputError, match="their inputs differ"):
            trtpipe.compare_latency(job(), net, save(embedding(), tmp_path / "other.onnx"))

    def test_a_graph_and_an_engine_are_not_compared(self, job, net, tmp_path):
        with pytest.raises(InputError, match="an engine and a graph"):
            trtpipe.compare_latency(job(), net, plan(tmp_path / "a.plan", 1))

    def test_a_missing_file_is_told(self, job, net, tmp_path):
        with pytest.raises(InputError, match=r"no\.onnx"):
            trtpipe.compare_latency(job(), net, tmp_path / "no.onnx")


def plan(path, kernels, flavor="tensorrt-rtx"):
    """An engine's header and what its builder said: so many kernels that write 32 bytes each."""
    magic, version = {"tensorrt-rtx": (b"vtrt", (1, 7, 1, 116)), "tensorrt": (b"ftrt", (10, 3, 0, 26))}[flavor]
    head = magic + bytes(4) + (0).to_bytes(8, "little") + (100).to_bytes(8, "little") + bytes(version) + magic
    path.write_bytes((head + RTX_TARGETS["sm89"].to_bytes(8, "little")).ljust(100, b"\0"))
    written = EngineTensor(name="y", type="Half", dims=(2, 8))
    layers = tuple(EngineLayer(name=f"l{index}", kind="conv", outputs=(written,)) for index in range(kernels))
    EngineRecord(
        flavor=flavor,
        version=".".join(map(str, version)),
        target="sm89",
        io=IO,
        report=EngineReport(source="a test", layers=layers),
        build_seconds=1.0,
    ).write(path.with_name(f"{path.name}.json"))
    return path


class TestEnginesWithoutGpu:
    def test_what_the_builder_says_is_compared_and_nothing_is_timed(self, job, tmp_path, monkeypatch):
        monkeypatch.setattr(compatibility, "missing", lambda name: None)
        monkeypatch.setattr(compatibility, "version", lambda name: "1.7.1.116")
        monkeypatch.setattr("trtpipe.backends.gpu.gpus", lambda: ())
        found = trtpipe.compare_latency(job(), plan(tmp_path / "a.plan", 3), plan(tmp_path / "b.plan", 5))
        assert (found.pairs, found.on_gpu, found.runner) == ((), False, "")
        assert found.notes[0].startswith("nothing was timed: ")
        assert "no NVIDIA GPU" in found.notes[0]
        assert {name: (each.kernels, each.bytes_written) for name, each in found.engines.items()} == {
            "old": (3, 96),
            "new": (5, 160),
        }

    def test_engines_of_two_flavors_are_not_compared(self, job, tmp_path):
        with pytest.raises(InputError, match="one process runs engines of one flavor"):
            trtpipe.compare_latency(job(), plan(tmp_path / "a.plan", 1), plan(tmp_path / "b.plan", 1, "tensorrt"))

    def test_an_engine_whose_sidecar_is_of_another_is_refused(self, job, tmp_path):
        one, other = plan(tmp_path / "a.plan", 1), plan(tmp_path / "b.plan", 1)
        sidecar = other.with_name("b.plan.json")
        EngineRecord.read(sidecar).model_copy(update={"digests": {"plan": "0" * 64}}).write(sidecar)
        with pytest.raises(InputError, match=r"b\.plan: its content is not that of the engine"):
            trtpipe.compare_latency(job(), one, other)
