"""From a build to a hand-over, to the engine that finish.py builds, and back to a package; and to Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from models import conv_net, normal, run
from world import World, content

import trtpipe
from trtpipe.backends.base import Refusal, missing
from trtpipe.delivery.finish import build as parts
from trtpipe.delivery.reader import Package
from trtpipe.errors import InputError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """finish.py builds here, and does not run what it built."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def world(built_world: World) -> World:
    return built_world


def finish(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run finish.py as on another machine: without trtpipe on the path."""
    return subprocess.run(
        [sys.executable, "-I", folder / "finish.py", *options], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def original(world: World) -> dict[str, bytes]:
    """A hand-over that was finished, file by file."""
    np.savez(world.folder / "samples.npz", x=normal(6, 3, 8, 8, seed=8))
    trtpipe.make_package(world.folder / "out", world.folder / "l4", handover="l4", samples=world.folder / "samples.npz")
    assert finish(world.folder / "l4", "--flavor", "tensorrt-rtx", "--build-only").returncode == 0
    return {path.name: path.read_bytes() for path in (world.folder / "l4").iterdir() if path.name != ".trtpipe.json"}


class TestHandover:
    def test_is_a_whole_package_without_plans(self, build: Path, tmp_path: Path) -> None:
        made = trtpipe.make_package(build, tmp_path / "orin", handover="AGX Orin")
        found = Package.opened(made.out)
        found.verify()
        assert found.model.plans == ()
        assert found.names == {".trtpipe.json", "model.json", "handover.json", "finish.py", "trtexec.sh",
                               "lowered.onnx", "reference.npz", "provenance.intoto.json", "bom.cdx.json"}  # fmt: skip
        assert "finish.py" in made.notes[0]
        job = json.loads((tmp_path / "orin" / "handover.json").read_text())
        assert (job["target"], job["plan"], job["profiles"][0]["x"]["max"]) == ("sm87", "sm87.plan", [8, 3, 8, 8])

    def test_trtexec_s_command_line_builds_the_same(self, build: Path, tmp_path: Path) -> None:
        options = trtpipe.BuildSettings(workspace=1 << 28, dla_core=0, gpu_fallback=True)
        trtpipe.make_package(build, tmp_path / "orin", handover="orin", handover_options=options)
        command = (tmp_path / "orin" / "trtexec.sh").read_text()
        for word in ("--onnx=lowered.onnx", "--saveEngine=sm87.plan", "--stronglyTyped", "--minShapes=x:1x3x8x8",
                     "--optShapes=x:2x3x8x8", "--maxShapes=x:8x3x8x8", "--memPoolSize=workspace:256",
                     "--useDLACore=0", "--allowGPUFallback"):  # fmt: skip
            assert word in command

    def test_a_package_is_handed_over_as_its_build_is(self, build: Path, tmp_path: Path) -> None:
        trtpipe.make_package(build, tmp_path / "net.tar")
        for name, source in (("a", build), ("b", tmp_path / "net.tar")):
            trtpipe.make_package(source, tmp_path / name, handover="orin")
        assert content(tmp_path / "a") == content(tmp_path / "b")

    @pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="TensorRT-RTX is not installed")
    def test_finish_builds_and_the_result_becomes_a_package(self, build: Path, tmp_path: Path) -> None:
        trtpipe.make_package(build, tmp_path / "l4", handover="l4")
        with pytest.raises(InputError, match="not finished yet"):
            trtpipe.make_package(tmp_path / "l4", tmp_path / "pkg")
        done = finish(tmp_path / "l4", "--flavor", "tensorrt-rtx")
        assert done.returncode == 0, done.stderr
        assert "NOT JUDGED: engine for sm89: built, not executed" in done.stdout
        made = trtpipe.make_package(tmp_path / "l4", tmp_path / "pkg")
        Package.opened(made.out).verify()
        (plan,) = made.model.plans
        assert (plan.file, plan.flavor, plan.target) == ("sm89.plan", "tensorrt-rtx", "sm89")
        assert "built, not executed" in made.model.verdict.scope
        assert plan.profiles[0]["x"].opt == (2, 3, 8, 8)
        engine = trtpipe.inspect(tmp_path / "l4" / "sm89.plan")
        assert (engine.kind, engine.notes, engine.targets) == ("engine", (), ("sm89",))
        assert trtpipe.inspect(tmp_path / "l4" / "finished.json").kind == "finished hand-over"
        folder = trtpipe.inspect(tmp_path / "l4")
        assert (folder.kind, folder.contents["plan"]) == ("finished hand-over", "sm89.plan")

    def test_without_tensorrt_it_says_what_is_missing(self, build: Path, tmp_path: Path) -> None:
        if missing("tensorrt") is None:
            pytest.skip("TensorRT is installed")
        trtpipe.make_package(build, tmp_path / "l4", handover="l4")
        done = finish(tmp_path / "l4")
        assert (done.returncode, done.stdout) == (6, "")
        assert "tensorrt" in done.stderr
        assert "Traceback" not in done.stderr

    def test_without_numpy_it_says_what_is_missing(self, build: Path, tmp_path: Path) -> None:
        trtpipe.make_package(build, tmp_path / "l4", handover="l4")
        program = [sys.executable, "-I", "-S", tmp_path / "l4" / "finish.py"]  # -S: no installed packages
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (6, "")
        error, remedy = done.stderr.splitlines()
        assert error.startswith("error: numpy cannot be imported")
        assert remedy.startswith("  try: install it")

    def test_a_graph_with_plug_in_nodes_is_handed_over_without_reference_outputs(
        self, world: World, tmp_path: Path
    ) -> None:
        model = conv_net()
        model.graph.node[-1].op_type, model.graph.node[-1].domain = "Pick_TRT", "trt.plugins"
        model.opset_import.add(domain="trt.plugins", version=1)
        onnx.save(model, tmp_path / "plugin.onnx")
        job = world.job(source=tmp_path / "plugin.onnx", precision="fp16", recipe={"evaluation": None})
        trtpipe.build(job, tmp_path / "out")
        made = trtpipe.make_package(tmp_path / "out", tmp_path / "orin", handover="orin")
        assert made.model.reference is None
        assert "no reference outputs" in " ".join(made.notes)
        assert json.loads((tmp_path / "orin" / "model.json").read_text())["reference"] is None

    def test_the_graph_that_is_handed_over_gives_the_reference_outputs(self, build: Path, tmp_path: Path) -> None:
        trtpipe.make_package(build, tmp_path / "orin", handover="orin")
        with np.load(tmp_path / "orin" / "reference.npz") as known:
            got = run(onnx.load(tmp_path / "orin" / "lowered.onnx"), {"x": known["0/in/x"]})
            np.testing.assert_allclose(got["y"], known["0/out/y"], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="TensorRT-RTX is not installed")
class TestEdited:
    """What was changed after finish.py wrote it."""

    @pytest.fixture
    def finished(self, original: dict[str, bytes], tmp_path: Path) -> Path:
        (tmp_path / "l4").mkdir()
        for name, data in original.items():
            (tmp_path / "l4" / name).write_bytes(data)
        return tmp_path / "l4"

    @pytest.mark.parametrize(
        ("name", "edit", "word"),
        [
            ("sm89.plan", lambda data: data[:-1], "sm89.plan"),
            ("sm89.plan.json", lambda data: data.replace(b'"flavor"', b'"flavour"'), "sm89.plan.json"),
            ("sm89.plan.json", lambda data: data.replace(b'"lowered": "', b'"lowered": "0'), "another graph"),
            ("finished.json", lambda data: data.replace(b'"schema": 2', b'"schema": 3'), "another version"),
            ("finished.json", lambda data: data.replace(b'"handover": "', b'"handover": "0'), "not finished yet"),
            ("finished.json", lambda data: data.replace(b"sm89.plan", b"../x.plan"), "plan"),
            ("finished.json", lambda data: data.replace(b'"data": "none"', b'"data": "real"'),
             "parity"),
            ("finished.json", lambda data: data[:40], "finished.json"),
            ("handover.json", lambda data: data.replace(b"sm89", b"sm86"), "handover.json"),
            ("lowered.onnx", lambda data: data[:-1], "lowered.onnx"),
        ],
    )  # fmt: skip
    def test_is_refused_by_name(
        self, finished: Path, tmp_path: Path, name: str, edit: Callable[[bytes], bytes], word: str
    ) -> None:
        before = (finished / name).read_bytes()
        (finished / name).write_bytes(edit(before))
        assert (finished / name).read_bytes() != before
        with pytest.raises(InputError, match=word) as caught:
            trtpipe.make_package(finished, tmp_path / "pkg")
        assert "\n" not in caught.value.message
        assert not (tmp_path / "pkg" / "model.json").exists()

    @pytest.mark.parametrize("change", ["target", "options"])
    def test_what_was_built_for_an_earlier_hand_over_in_the_folder_does_not_finish_it(
        self, build: Path, world: World, finished: Path, tmp_path: Path, change: str
    ) -> None:
        """As after ``package make --handover`` into the folder of a hand-over that was finished."""
        options: dict[str, Any] = {
            "target": {"handover": "orin"},
            "options": {"handover": "l4", "handover_options": trtpipe.BuildSettings(opt_level=1)},
        }[change]
        trtpipe.make_package(build, tmp_path / "new", samples=world.folder / "samples.npz", **options)
        for path in (tmp_path / "new").iterdir():
            (finished / path.name).write_bytes(path.read_bytes())
        with pytest.raises(InputError, match="not finished yet"):
            trtpipe.make_package(finished, tmp_path / "pkg")
        trtpipe.save_baseline(build, tmp_path / "good.json")
        with pytest.raises(InputError, match="not finished yet"):
            trtpipe.check(finished, tmp_path / "good.json")

    def test_a_plan_that_is_missing_is_said(self, finished: Path, tmp_path: Path) -> None:
        (finished / "sm89.plan").unlink()
        with pytest.raises(InputError, match=r"sm89\.plan"):
            trtpipe.make_package(finished, tmp_path / "pkg")


class TestTriton:
    def test_a_bundle_of_the_recording_fake_becomes_a_repository(
        self, world: World, tmp_path: Path, recording_tensorrt: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refusal = Refusal("the GPU is a recording fake", "none")
        monkeypatch.setattr("trtpipe.backends.trt.backend.cannot_run", lambda target: refusal)
        trtpipe.build(world.job(backend="tensorrt"), tmp_path / "out")
        made = trtpipe.make_package(tmp_path / "out", tmp_path / "repository", triton=True)
        net = tmp_path / "repository" / "net"
        assert (net / "1" / "model.plan").read_bytes() == (tmp_path / "out" / "sm89.plan").read_bytes()
        config = (net / "config.pbtxt").read_text()
        assert 'backend: "tensorrt"' in config
        assert "max_batch_size: 8" in config
        assert len(list((net / "warmup").glob("[0-9]*"))) == 4
        assert any("11.4.0.106" in note for note in made.notes)

    def test_the_lowered_graph_that_is_served_gives_the_reference_outputs(self, world: World, tmp_path: Path) -> None:
        trtpipe.build(world.job(precision="fp16"), tmp_path / "out")
        settings = trtpipe.TritonSettings(backend="onnxruntime", name="half")
        made = trtpipe.make_package(tmp_path / "out", tmp_path / "repository", triton=settings)
        trtpipe.make_package(tmp_path / "out", tmp_path / "pkg")
        assert any("emulated" in note for note in made.notes)
        with np.load(tmp_path / "pkg" / "reference.npz") as known:
            got = run(onnx.load(tmp_path / "repository" / "half" / "1" / "model.onnx"), {"x": known["0/in/x"]})
            np.testing.assert_allclose(got["y"], known["0/out/y"], rtol=1e-5, atol=1e-6)

    def test_models_and_versions_are_added_to_a_repository(self, build: Path, tmp_path: Path) -> None:
        out = tmp_path / "repository"
        (out / "theirs" / "1").mkdir(parents=True)
        (out / "theirs" / "config.pbtxt").write_text("mine")
        for name, version in (("a", 1), ("b", 1), ("a", 2), ("a", 2)):
            settings = trtpipe.TritonSettings(backend="onnxruntime", name=name, version=version)
            trtpipe.make_package(build, out, triton=settings)
        found = {str(path.relative_to(out)) for path in out.rglob("*") if path.name in ("model.onnx", "config.pbtxt")}
        assert found == {"theirs/config.pbtxt", "a/config.pbtxt", "a/1/model.onnx", "a/2/model.onnx", "b/config.pbtxt",
                         "b/1/model.onnx"}  # fmt: skip
        assert (out / "theirs" / "config.pbtxt").read_text() == "mine"

    def test_a_version_that_leaves_another_one_unfit_is_refused(self, build: Path, tmp_path: Path) -> None:
        settings = trtpipe.TritonSettings(backend="onnxruntime", name="a")
        trtpipe.make_package(build, tmp_path / "repository", triton=settings)
        before = content(tmp_path / "repository")
        changed = settings.model_copy(update={"version": 2, "max_batch_size": 3})
        with pytest.raises(InputError, match="version 1"):
            trtpipe.make_package(build, tmp_path / "repository", triton=changed)
        assert content(tmp_path / "repository") == before

    def test_handed_over_it_waits_for_the_plan(self, build: Path, tmp_path: Path) -> None:
        made = trtpipe.make_package(build, tmp_path / "both", triton=True, handover="orin")
        assert (tmp_path / "both" / "repository" / "net" / "config.pbtxt").is_file()
        job = json.loads((tmp_path / "both" / "handover" / "handover.json").read_text())
        assert job["repository"] == "../repository/net/1/model.plan"
        Package.opened(tmp_path / "both" / "handover").verify()
        assert any("not built" in note for note in made.notes)
        done = finish(tmp_path / "both" / "handover", "--flavor", "tensorrt-rtx")
        assert (done.returncode, "Triton" in done.stderr) == (2, True)

    def test_a_folder_of_other_things_is_no_repository(self, build: Path, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "1.png").write_text("mine")
        with pytest.raises(InputError, match=r"photos: holds files, and is no model repository"):
            trtpipe.make_package(build, tmp_path / "photos", triton=trtpipe.TritonSettings(backend="onnxruntime"))
        assert [path.name for path in (tmp_path / "photos").iterdir()] == ["1.png"]

    @pytest.mark.parametrize("name", ["net", "net/config.pbtxt", "net/1/model.onnx"])
    def test_a_model_of_another_is_left_alone(self, build: Path, tmp_path: Path, name: str) -> None:
        mine = tmp_path / "repository" / name / ("mine.txt" if name == "net" else "")
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")
        before = content(tmp_path / "repository")
        with pytest.raises(InputError, match=r"net|no model repository"):
            trtpipe.make_package(build, tmp_path / "repository", triton=trtpipe.TritonSettings(backend="onnxruntime"))
        assert content(tmp_path / "repository") == before


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"triton": True}, InputError, r"sm89\.plan: a plan of null"),
        ({"triton": trtpipe.TritonSettings(backend="onnxruntime", name="a b")}, InputError, "'a b'"),
        ({"triton": 3}, InputError, "triton"),
        ({"triton": "missing.toml"}, RecipeError, r"missing\.toml"),
        ({"triton": trtpipe.TritonSettings(backend="onnxruntime"), "handover": "orin"}, InputError, "onnxruntime"),
        ({"handover": "orion"}, InputError, "orion"),
        ({"handover": 3}, InputError, "handover"),
        ({"handover_options": trtpipe.BuildSettings(opt_level=3)}, InputError, "nothing is handed over"),
        ({"handover": "orin", "handover_options": "missing.toml"}, RecipeError, r"missing\.toml"),
        ({"handover": "l4", "handover_options": trtpipe.BuildSettings(dla_core=0)}, InputError, "DLA"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    build: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        trtpipe.make_package(build, tmp_path / "out", **options)
    assert content(tmp_path / "out") == {} if (tmp_path / "out").exists() else True


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"triton": True, "samples": [1]},
        {"handover": "l4", "licenses": ["x"]},
        {"handover": "l4", "description": trtpipe.ModelDescription(name="x")},
    ],
)
def test_of_a_package_no_package_is_made_and_nothing_is_said_again(
    build: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    trtpipe.make_package(build, tmp_path / "pkg")
    with pytest.raises(InputError, match="is a package"):
        trtpipe.make_package(tmp_path / "pkg", tmp_path / "out", **options)


@pytest.mark.parametrize("name", ["pkg", "pkg.tar"])
def test_a_package_that_was_cut_short_is_not_handed_over(build: Path, tmp_path: Path, name: str) -> None:
    trtpipe.make_package(build, tmp_path / name)
    cut = tmp_path / name / "reference.npz" if name == "pkg" else tmp_path / name
    cut.write_bytes(cut.read_bytes()[: -3000 if name == "pkg" else -12000])
    with pytest.raises(InputError, match="cut short"):
        trtpipe.make_package(tmp_path / name, tmp_path / "out", handover="orin")


def test_a_package_without_reference_inputs_is_not_handed_over(build: Path, tmp_path: Path) -> None:
    trtpipe.make_package(build, tmp_path / "pkg")
    index = json.loads((tmp_path / "pkg" / "model.json").read_text())
    for name in ("reference.npz", ".trtpipe.json"):
        (tmp_path / "pkg" / name).unlink()
    index["reference"] = None
    index["files"] = [file for file in index["files"] if file["name"] != "reference.npz"]
    (tmp_path / "pkg" / "model.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="no reference inputs") as caught:
        trtpipe.make_package(tmp_path / "pkg", tmp_path / "out", handover="orin")
    assert "--samples" in caught.value.remedy


def test_a_precision_that_the_target_lacks_is_refused(build: Path, tmp_path: Path) -> None:
    trtpipe.make_package(build, tmp_path / "pkg")
    (tmp_path / "pkg" / ".trtpipe.json").unlink()
    index = (tmp_path / "pkg" / "model.json").read_text().replace('"precision": "int8"', '"precision": "fp8"')
    (tmp_path / "pkg" / "model.json").write_text(index)
    with pytest.raises(InputError, match=r"sm87.*fp8"):
        trtpipe.make_package(tmp_path / "pkg", tmp_path / "out", handover="orin")


def test_a_rejected_build_is_handed_over_only_if_asked(world: World, tmp_path: Path) -> None:
    result = trtpipe.build(world.job(tolerance={"atol": 0.0, "rtol": 0.0, "min_cosine": 1.0}), tmp_path / "bad")
    assert result.out is not None
    with pytest.raises(InputError, match="rejected"):
        trtpipe.make_package(result.out, tmp_path / "out", handover="orin")
    trtpipe.make_package(result.out, tmp_path / "out", handover="orin", allow_failed=True)
    verdict = json.loads((tmp_path / "out" / "model.json").read_text())["verdict"]
    assert verdict["allowed_failed"] is True


@pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="TensorRT-RTX is not installed")
def test_a_build_that_lacks_one_target_is_handed_over_to_that(world: World, tmp_path: Path) -> None:
    result = trtpipe.build(world.job(backend="tensorrt-rtx", targets=["sm89", "orin"]), tmp_path / "bad")
    assert result.out is not None
    assert result.verdict.exit_code == 5
    for options in ({}, {"handover": "thor"}):
        with pytest.raises(InputError, match="rejected"):
            trtpipe.make_package(result.out, tmp_path / "out", **options)
    made = trtpipe.make_package(result.out, tmp_path / "out", handover="orin")
    assert (made.model.verdict.exit_code, made.model.verdict.outcome) == (0, "passed")
    assert not made.model.verdict.allowed_failed
    assert made.model.plans == ()


@pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize("targets", [["sm89", "orin"], ["orin"]])
def test_a_build_that_hands_a_target_over_is_whole(world: World, tmp_path: Path, targets: list[str]) -> None:
    result = trtpipe.build(world.job(backend="tensorrt-rtx", targets=targets), tmp_path / "out", handover=True)
    assert (result.verdict.exit_code, result.verdict.handed_over, result.out) == (0, ("sm87",), tmp_path / "out")
    assert [path.name for path in result.out.glob("*.plan")] == [f"{name}.plan" for name in targets[:-1]]
    made = trtpipe.make_package(result.out, tmp_path / "orin", handover="orin")
    job = json.loads((made.out / "handover.json").read_text())
    assert (job["target"], job["profiles"][0]["x"]["max"]) == ("sm87", [8, 3, 8, 8])


def test_a_target_to_hand_over_is_named_among_the_targets(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="handover"):
        trtpipe.build(world.job(), tmp_path / "out", handover="orin")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "made"), [("x.tar", False), ("out", True)])
def test_no_place_for_a_repository(build: Path, world: World, tmp_path: Path, name: str, made: bool) -> None:
    out = world.folder / name if made else tmp_path / name
    with pytest.raises(InputError):
        trtpipe.make_package(build, out, triton=trtpipe.TritonSettings(backend="onnxruntime"))


class TestCheck:
    """A finished hand-over against a baseline of the build it came from."""

    @pytest.fixture
    def baseline(self, build: Path, tmp_path: Path) -> Path:
        trtpipe.save_baseline(build, tmp_path / "good.json")
        return tmp_path / "good.json"

    @pytest.fixture
    def finished(self, original: dict[str, bytes], tmp_path: Path) -> Path:
        (tmp_path / "l4").mkdir()
        for name, data in original.items():
            (tmp_path / "l4" / name).write_bytes(data)
        return tmp_path / "l4"

    def test_what_was_not_executed_is_not_judged(self, finished: Path, baseline: Path) -> None:
        report = trtpipe.check(finished, baseline)
        assert report.passed
        assert report.headline.startswith("NOT JUDGED on real data")
        assert {finding.name: finding.status for finding in report.findings} == {
            "outputs of engine:sm89": "skipped", "latency": "skipped",
        }  # fmt: skip

    @pytest.mark.parametrize(("noise", "word", "passed"), [(0.0, "PASSED", True), (50.0, "FAILED", False)])
    def test_the_outputs_of_an_engine_that_ran_decide(
        self, world: World, finished: Path, tmp_path: Path, noise: float, word: str, passed: bool
    ) -> None:
        finish_with_outputs(finished, noise)
        trtpipe.save_baseline(world.folder / "out", tmp_path / "good.json")
        report = trtpipe.check(finished, tmp_path / "good.json")
        assert (report.passed, report.headline.partition(":")[0]) == (passed, word)
        assert report.verdict.accuracy.outcome == ("passed" if passed else "failed")
        if passed:
            made = trtpipe.make_package(finished, tmp_path / "pkg")
            assert made.model.verdict.headline.startswith("PASSED on the engine for sm89")
        else:
            with pytest.raises(InputError, match="rejected"):
                trtpipe.make_package(finished, tmp_path / "pkg")

    @pytest.mark.parametrize("edit", [('data_digest": "', 'data_digest": "0'), ('"atol": 100.0', '"atol": 200.0')])
    def test_a_comparison_of_something_else_is_refused(
        self, finished: Path, baseline: Path, edit: tuple[str, str]
    ) -> None:
        finish_with_outputs(finished, 0.0)
        report = (finished / "parity.json").read_text()
        (finished / "parity.json").write_text(report.replace(*edit))
        assert (finished / "parity.json").read_text() != report
        with pytest.raises(InputError, match="does not follow"):
            trtpipe.check(finished, baseline)

    def test_another_s_baseline_and_other_packages_are_refused(
        self, world: World, build: Path, finished: Path, baseline: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="metric"):
            trtpipe.check(finished, baseline, min_metric={"top1": 0.5})
        trtpipe.make_package(build, tmp_path / "pkg")
        with pytest.raises(InputError, match="a package, and no build"):
            trtpipe.check(tmp_path / "pkg", baseline)
        other = baseline.read_text().replace('"precision": "int8"', '"precision": "fp16"')
        baseline.write_text(other)
        with pytest.raises(InputError, match="fp16"):
            trtpipe.check(finished, baseline)


def finish_with_outputs(folder: Path, noise: float) -> None:
    """As if finish.py had run the engine, and its outputs were those of the reference with some noise."""
    model, job = parts.read_folder(folder)
    feeds, wanted = parts.read_reference(folder, model)
    found = [{"y": each["y"] + np.float32(noise) * normal(*each["y"].shape, seed=3)} for each in wanted]
    engine = json.loads((folder / "sm89.plan.json").read_text())
    report = parts.judge(model, job, "tensorrt 10.3.0 on L4", found, wanted, feeds, engine["digests"]["plan"])
    parts.write(folder, model, job, engine, report, None, "tensorrt 10.3.0 on L4")
