"""The upgrade gate on real engines, and builds that refuse other tools."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import normal, residual, save
from onnx import numpy_helper

import trtpipe
from trtpipe.api import upgrade
from trtpipe.backends.base import load_backend, missing
from trtpipe.errors import BuildError, HostError, InputError
from trtpipe.isolation import interpreter
from trtpipe.report.manifest import Manifest

RTX = pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")
SHAPES = {"x": (2, 4, 6, 6)}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP16 build of two convolutions with a residual sum, by the TensorRT-RTX that is installed."""
    folder = tmp_path_factory.mktemp("upgrade")
    save(residual(), folder / "net.onnx")
    np.savez(folder / "data.npz", x=normal(4, 4, 6, 6))
    out = trtpipe.build(
        folder / "net.onnx",
        folder / "out",
        precision="fp16",
        calib_data=folder / "data.npz",
        shapes=SHAPES,
        targets=["sm89", "sm120"],
        profile=trtpipe.DeploymentProfile(backend="tensorrt-rtx", tolerance={"atol": 10.0, "min_snr_db": -99}),
        settings=trtpipe.Settings(cache_dir=folder / "cache"),
    ).out
    assert out is not None
    return out


class Changed:
    """TensorRT-RTX, but it builds from a graph that was changed: as another version might read it."""

    def __init__(self, change):
        self._change = change

    def build(self, request, progress):
        model = request.plan.parent / "changed.onnx"
        proto = onnx.load(request.model)
        self._change(proto)
        onnx.save(proto, model)
        return load_backend("tensorrt-rtx").build(replace(request, model=model), progress)


def failed(real, monkeypatch, change):
    monkeypatch.setattr(upgrade, "load_backend", lambda name, **_: Changed(change))
    report = trtpipe.check_upgrade(real, [sys.executable])
    return {each.name.rpartition(": ")[2]: each for each in report.findings if each.status == "failed"}


@RTX
class TestUpgrade:
    def test_a_rebuild_by_the_same_version_differs_in_nothing(self, real, heard_all):
        report = trtpipe.check_upgrade(real, [sys.executable, Path(sys.executable)], progress=heard_all)
        assert {finding.status for finding in report.findings} == {"ok"}
        assert report.passed
        assert report.versions == (report.baseline,)
        assert len({finding.name for finding in report.findings}) == 5 * len(list(real.glob("*.plan"))) / (
            2 if len({path.read_bytes() for path in real.glob("*.plan")}) == 1 else 1
        )
        weights = next(finding for finding in report.findings if finding.name.endswith("weights"))
        assert "compared byte by byte" in weights.message
        assert not weights.message.startswith("the same; 0 of")
        assert all(step.startswith("compile sm") for step, _ in heard_all.steps)

    @pytest.mark.parametrize("kept", [["conv_*"], ["relu_0", "conv_1"]])
    def test_a_node_in_another_type_is_found(self, real, monkeypatch, tmp_path, kept):
        lowered = trtpipe.lower(
            real / "simplified.onnx", tmp_path / "kept.onnx", precision="fp16", keep=kept,
            settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
        ).out  # fmt: skip
        found = failed(real, monkeypatch, lambda proto: proto.CopyFrom(onnx.load(lowered)))
        assert "conv_1: Half to Half -> Float to " in found["precision"].message
        assert "weights" in found

    @pytest.mark.parametrize("seed", range(3))
    def test_a_weight_with_other_values_is_found_and_named(self, real, monkeypatch, seed):
        names: list[str] = []

        def disturb(proto):
            generator = np.random.default_rng(seed)
            kernels = [each for each in proto.graph.initializer if len(each.dims) == 4]
            tensor = kernels[seed % len(kernels)]
            array = numpy_helper.to_array(tensor).copy()
            place = tuple(int(generator.integers(length)) for length in array.shape)
            array[place] *= np.array(1.01, array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            names.append(tensor.name)

        found = failed(real, monkeypatch, disturb)
        assert list(found) == ["weights"]
        assert names[0] in found["weights"].message

    def test_what_cannot_be_built_is_said(self, real, monkeypatch):
        class Failing:
            def build(self, request, progress):
                raise BuildError("no such kernel", "use another")

        monkeypatch.setattr(upgrade, "load_backend", lambda name, **_: Failing())
        report = trtpipe.check_upgrade(real, [sys.executable])
        assert not report.gate_passed("build")
        assert "no such kernel" in report.findings[0].message

    def test_no_other_version_is_here(self, real, monkeypatch, tmp_path):
        monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
        (tmp_path / "env").mkdir()
        with pytest.raises(HostError, match="no tensorrt-rtx but 1"):
            trtpipe.check_upgrade(real)

    def test_each_version_that_is_found_is_taken_once(self, real, monkeypatch):
        def at(place, *packages):
            return replace(interpreter.own_interpreter(*packages), packages={"tensorrt-rtx": place.name})

        monkeypatch.setattr(upgrade, "neighbors", lambda package: (Path("a/1.5"), Path("b/1.5"), Path("c/1.6")))
        monkeypatch.setattr(upgrade, "interpreter_of", at)
        assert trtpipe.check_upgrade(real).versions == ("tensorrt-rtx 1.5", "tensorrt-rtx 1.6")

    def test_an_environment_without_it(self, real, monkeypatch):
        monkeypatch.setattr(
            upgrade, "interpreter_of", lambda place, *packages: replace(
                interpreter.own_interpreter(*packages), packages={"tensorrt-rtx": ""}
            )
        )  # fmt: skip
        with pytest.raises(HostError, match="tensorrt-rtx is not installed there"):
            trtpipe.check_upgrade(real, [sys.executable])


def test_a_build_without_comparable_engines(world, heard_all):
    out = trtpipe.build(world.job(), world.folder / "out", progress=heard_all).out
    manifest = Manifest.read(out / "manifest.json")
    kept = tuple(entry for entry in manifest.artifacts if not entry.label.startswith("engine"))
    manifest.model_copy(update={"artifacts": kept}).write(out / "manifest.json")
    with pytest.raises(InputError, match="has no engine"):
        trtpipe.check_upgrade(out)
    with pytest.raises(InputError, match="no bundle lies there"):
        trtpipe.check_upgrade(world.folder)


@RTX
@pytest.mark.slow
@pytest.mark.skipif("TRTPIPE_TEST_PYTHONS" not in os.environ, reason="names environments with other TensorRTs")
def test_real_versions(real):
    """TRTPIPE_TEST_PYTHONS=ENV:ENV pytest -m slow tests/api/test_upgrade.py"""
    places = os.environ["TRTPIPE_TEST_PYTHONS"].split(":")
    report = trtpipe.check_upgrade(real, places)
    assert len(report.versions) == len(places)
    assert not {finding.status for finding in report.findings} & {"skipped"}
    assert all(version in str(report.findings) for version in report.versions)


class TestLocked:
    def edited(self, world, heard_all, **versions):
        out = trtpipe.build(world.job(), world.folder / "out", progress=heard_all).out
        manifest = Manifest.read(out / "manifest.json")
        manifest.model_copy(update={"toolchain": manifest.toolchain | versions}).write(out / "manifest.json")
        return out

    def test_the_same_tools_build(self, world, heard_all):
        locked = self.edited(world, heard_all)
        for place in (locked, str(locked / "manifest.json")):
            again = trtpipe.build(world.job(), world.folder / "again", locked=place, progress=heard_all)
            assert again.verdict.exit_code == 0
            assert trtpipe.dry_run(world.job(), locked=place)

    @pytest.mark.parametrize("tool", ["onnxruntime", "null", "onnxsim", "of_the_future"])
    def test_another_version_is_refused_before_anything_runs(self, world, heard_all, tool):
        locked = self.edited(world, heard_all, **{tool: "0.0.1"})
        for run in (
            lambda: trtpipe.build(world.job(), world.folder / "again", locked=locked, progress=heard_all),
            lambda: trtpipe.dry_run(world.job(), locked=locked),
        ):
            with pytest.raises(HostError, match=rf"{tool}: 0\.0\.1 there, .* here") as caught:
                run()
            assert caught.value.exit_code == 6
        assert not (world.folder / "again").exists()

    def test_another_trtpipe_and_another_back_end(self, world, heard_all):
        out = trtpipe.build(world.job(), world.folder / "out", progress=heard_all).out
        manifest = Manifest.read(out / "manifest.json")
        manifest.model_copy(update={"trtpipe": "0.0.1"}).write(out / "manifest.json")
        with pytest.raises(HostError, match=r"trtpipe: 0\.0\.1 there, "):
            trtpipe.dry_run(world.job(), locked=out)
        manifest.model_copy(update={"backend": "tensorrt"}).write(out / "manifest.json")
        with pytest.raises(HostError, match="back-end: tensorrt there, null here"):
            trtpipe.dry_run(world.job(), locked=out)

    def test_no_build(self, world, tmp_path):
        with pytest.raises(InputError, match="no bundle lies there"):
            trtpipe.dry_run(world.job(), locked=tmp_path)
