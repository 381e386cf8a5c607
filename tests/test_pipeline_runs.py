"""Runs of the pipeline that go wrong, what they leave alone, and what a run that goes right writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from world import (
    AFTER_LOWER,
    ALL,
    BUNDLE,
    CALIBRATE,
    COMPILE,
    EXPORT,
    OBSERVE,
    SHAPES,
    SIMPLIFY,
    World,
    built_steps,
    content,
    states,
)

from trtpipe.api import stages
from trtpipe.backends.null import Null
from trtpipe.config.source import ModuleSource
from trtpipe.errors import BuildError, InputError, StageError
from trtpipe.pipeline.pipeline import stages_named
from trtpipe.report.manifest import Manifest

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("in_process", "no_waiting_for_the_disk")


class TestTargets:
    @pytest.fixture
    def failing(self, monkeypatch):
        """Let the null back-end fail for some targets."""
        build = Null.build

        def arrange(*names, error=None):
            error = error or BuildError("cannot fuse", "use another target")

            def wrapped(self, request, progress):
                if {target.name for target in request.targets} & set(names):
                    raise error
                return build(self, request, progress)

            monkeypatch.setattr(Null, "build", wrapped)

        return arrange

    def test_one_that_fails_does_not_lose_the_others(self, world, heard_all, failing):
        failing("sm86")
        job = world.job(targets=["sm86", "sm89", "sm120"])
        steps = world.run(job, heard_all)
        assert states(steps) | {"export": "hit"} == states(steps)
        assert {label: state for label, state in states(steps).items() if label.startswith("compile")} == {
            "compile sm86": "failed", COMPILE: "hit", "compile sm120": "built"
        }  # fmt: skip
        failed = next(step for step in steps if step.state == "failed")
        assert (failed.because, failed.artifact, failed.key) == ("cannot fuse", None, "")
        assert "compile sm86: cannot fuse (use another target)" in heard_all.warnings
        assert ("compile sm86", "failed") in heard_all.steps
        manifest = Manifest.read(steps[-1].artifact.path)
        assert [entry.label for entry in manifest.artifacts if entry.label.startswith("engine")] == [
            "engine:sm89", "engine:sm120"
        ]  # fmt: skip

    def test_it_is_tried_again_the_next_time(self, world, heard_all, failing, monkeypatch):
        failing("sm120")
        job = world.job(targets=["sm89", "sm120"])
        world.run(job, heard_all)
        failing()
        assert built_steps(world.run(job, heard_all)) == ("compile sm120", "measure", BUNDLE)

    def test_an_engine_that_fails_its_check_does_not_lose_the_others_either(self, world, heard_all, failing):
        failing("sm120", error=StageError("came out in float32", "report this"))
        steps = world.run(world.job(targets=["sm89", "sm120"]), heard_all)
        assert states(steps)["compile sm120"] == "failed"
        assert states(steps)[BUNDLE] == "built"

    def test_if_all_fail_the_run_fails(self, world, heard_all, failing):
        failing("sm86", "sm120")
        with pytest.raises(BuildError, match="cannot fuse"):
            world.run(world.job(targets=["sm86", "sm120"]), heard_all)

    def test_what_is_no_fault_of_the_target_stops_the_run(self, world, heard_all, failing):
        failing("sm120", error=InputError("the profile is wrong", "correct it"))
        with pytest.raises(InputError):
            world.run(world.job(targets=["sm89", "sm120"]), heard_all)
        assert heard_all.steps[-1] == ("compile sm120", "failed")

    def test_no_target_at_all(self, world, heard_all):
        job = replace(world.job(), targets=())
        with pytest.raises(StageError, match="no target to compile for"):
            world.run(job, heard_all)


class TestOutput:
    @pytest.fixture
    def build(self, world, heard_all):
        def go(out="out", **options):
            return stages.build(world.job(**options), world.folder / out, progress=heard_all)

        return go

    def test_a_bundle_has_everything(self, build, world):
        result = build()
        assert result.out == world.folder / "out"
        assert result.accurate
        assert result.fast is None
        graphs = {f"{kind}.onnx{suffix}" for kind in ("model", "simplified", "lowered") for suffix in ("", ".json")}
        reports = {"ranges.json", "statistics.npz", "parity.json", "outputs.json", "latency.json", "manifest.json"}
        names = graphs | reports | {"sm89.plan", "sm89.plan.json"}
        assert set(content(result.out)) == names
        listed = {entry.name for artifact in result.manifest.artifacts for entry in artifact.files}
        assert listed == names - {"manifest.json"}

    def test_a_bundle_that_fails_its_gate_goes_beside(self, build, world):
        good = build()
        before = content(good.out)
        bad = build(tolerance={"atol": 0.0, "rtol": 0.0})
        assert not bad.accurate
        assert bad.out == world.folder / "out.rejected"
        assert content(good.out) == before
        manifest = Manifest.read(bad.out / "manifest.json")
        assert not manifest.passed
        assert "differs from model" in manifest.verdict.accuracy.summary

    def test_a_failed_run_leaves_the_earlier_output_byte_for_byte(self, build, world, monkeypatch):
        out = build().out
        (out / "mine.txt").write_text("my own")
        before = {name: (data, (out / name).stat().st_mtime_ns) for name, data in content(out).items()}

        def fail(*args):
            raise BuildError("cannot fuse", "use another target")

        for stage, options in (("compile", {"keep": ["gemm_5"]}), ("lower", {"precision": "fp16"}),
                               ("simplify", {"simplify": False})):  # fmt: skip
            with monkeypatch.context() as patch:
                patch.setattr(type(stages_named(stage)[0]), "run", fail)
                with pytest.raises(BuildError):
                    build(**options)
            assert {name: (data, (out / name).stat().st_mtime_ns) for name, data in content(out).items()} == before
        assert not (world.folder / "out.rejected").exists()

    def test_files_of_the_earlier_bundle_go_and_the_users_own_stay(self, build):
        out = build(targets=["sm89", "sm120"]).out
        (out / "notes.txt").write_text("mine")
        (out / "sm75.plan").write_text("mine too")
        build(precision="fp16")
        left = set(content(out))
        assert {"notes.txt", "sm75.plan", "sm89.plan"} <= left
        assert not left & {"sm120.plan", "sm120.plan.json", "ranges.json"}

    def test_an_output_that_cannot_be_written_costs_no_work(self, world, heard_all):
        with pytest.raises(InputError, match="a file, so"):
            stages.build(world.job(keep=["gemm_5"]), world.model, progress=heard_all)
        assert heard_all.steps == []


def test_whatever_is_no_engine_and_no_time_is_equal_in_another_folder_and_cache(
    new_world, tmp_path, heard_all, monkeypatch
):
    other = World(tmp_path / "somewhere else" / "entirely")
    shutil.copytree(new_world.folder, other.folder)
    bundles = []
    for world in (new_world, other):
        monkeypatch.chdir(world.folder)
        bundles.append(content(stages.build(world.job(), world.folder / "out", progress=heard_all).out))
    first, second = bundles
    assert set(first) == set(second)
    timed = {"latency.json", "sm89.plan.json", "manifest.json"}
    for name in set(first) - timed:
        assert first[name] == second[name], name
    for name, data in first.items():
        assert str(tmp_path).encode() not in data, name
    manifests = []
    for bundle in bundles:
        manifest = json.loads(bundle["manifest.json"])
        manifest["artifacts"] = [a for a in manifest["artifacts"] if a["label"] not in ("latency", "engine:sm89")]
        del manifest["verdict"]["latency"]
        manifests.append(manifest)
    assert manifests[0] == manifests[1]


def test_a_module_in_hand_is_exported_every_time_and_nothing_else_is_repeated(new_world, heard_all):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    )
    shapes = {"input": SHAPES["x"]}
    none = {"data": {}, "evaluation": None}
    job = new_world.job(source=(network, (torch.zeros(1, 3, 8, 8),)), shapes=shapes, precision="fp16", recipe=none)
    assert isinstance(job.source, ModuleSource)
    first = new_world.run(job, heard_all)
    always = {"reference": "built", OBSERVE: "skipped", CALIBRATE: "skipped"}
    assert states(first) == dict.fromkeys(ALL, "built") | always
    second = new_world.run(job, heard_all)
    assert states(second) == dict.fromkeys(ALL, "hit") | {EXPORT: "built"} | always
    assert first[0].key == second[0].key
    with torch.no_grad():
        network[3].bias += 1
    lower, compile_, *rest = AFTER_LOWER
    again = (EXPORT, SIMPLIFY, lower, compile_, "reference", *rest)
    assert built_steps(new_world.run(job, heard_all)) == again
