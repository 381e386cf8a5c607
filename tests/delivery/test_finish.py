"""The parts of finish.py: what it tells the builder, how it runs an engine, and that its figures are trtpipe's."""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from backends.recording_tensorrt import RecordingTensorRT
from delivery.repositories import packaged
from fake_cuda import TRT, FakeCudart, TimedContext, TimedEngine
from models import normal

from trtpipe.accuracy.comparison import OutputComparison
from trtpipe.accuracy.consistency import require_report
from trtpipe.accuracy.reports import ParityReport
from trtpipe.config.formats import Precision
from trtpipe.config.profile import DeploymentProfile, Tolerance
from trtpipe.config.target import find_target
from trtpipe.delivery import record
from trtpipe.delivery.finish import build, judge, source
from trtpipe.delivery.finish.common import Failed
from trtpipe.delivery.finish.engine import Cuda, Engine
from trtpipe.delivery.handover import FINISHED_SCHEMA, SCHEMA, hand_over
from trtpipe.engine.record import EngineRecord
from trtpipe.latency.reports import LatencyReport

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASSIC = ("tensorrt-10.3.0", "tensorrt-11.4.0.106")
GIVEN = argparse.Namespace(flavor="tensorrt", build_only=False, warm_up=0.0, duration=0.0)


@pytest.fixture
def folder(tmp_path: Path, conv_net: Path) -> Path:
    """A hand-over of a model that really can be parsed, for an L4."""
    return handed_over(tmp_path, conv_net)


def handed_over(tmp_path: Path, graph: Path, target: str = "sm89", repository: str = "", **options: Any) -> Path:
    from trtpipe.delivery.record import Range, Tensor

    (tmp_path / "made").mkdir()
    feed = {"x": normal(2, 3, 16, 16)}
    package = packaged(
        tmp_path / "made", inputs=(Tensor("x", "float32", ("N", 3, 16, 16)),),
        outputs=(Tensor("y", "float32", ("N", 8, 16, 16)),), feeds=[feed],
        profiles=({"x": Range((1, 3, 16, 16), (2, 3, 16, 16), (8, 3, 16, 16))},),
    )  # fmt: skip
    package.files["lowered.onnx"].write_bytes(graph.read_bytes())
    out = tmp_path / "handover"
    out.mkdir()
    sealed = hand_over(
        package, find_target(target), DeploymentProfile.model_validate({"build": options}), out, repository
    ).sealed(out)
    for name, path in sealed.files.items():
        if path.parent != out:
            (out / name).write_bytes(path.read_bytes())
    return out


#: What the standard library got after 3.8, of what is likely to be written.
NEWER = {"dict |=", "removeprefix", "removesuffix", "strict", "is_relative_to", "readlink", "hardlink_to", "cache",
         "pairwise", "bit_count", "stdlib_module_names", "file_digest"}  # fmt: skip


def test_is_one_file_for_python_3_8_that_imports_numpy_and_tensorrt_alone(tmp_path: Path) -> None:
    text = source()
    tree = ast.parse(text, feature_version=(3, 8))
    roots = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    roots |= {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "tensorrt", "tensorrt_rtx"}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {keyword.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords}
    used |= {"dict |=" for node in ast.walk(tree) if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr)}
    assert not used & NEWER, "newer than Python 3.8"
    (tmp_path / "finish.py").write_text(text)
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--target-version=py38", "--select=E9,F", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    assert (
        "Traceback"
        not in subprocess.run(
            [sys.executable, "-I", tmp_path / "finish.py", "--help"], capture_output=True, text=True, check=True
        ).stderr
    )


class TestBuild:
    @pytest.fixture(params=CLASSIC)
    def trt(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RecordingTensorRT:
        fake = RecordingTensorRT(request.param)
        monkeypatch.setattr(build, "load_tensorrt", lambda flavor: fake)
        monkeypatch.setattr(Cuda, "load", classmethod(lambda cls: None))
        return fake

    def test_a_target_that_tensorrt_rtx_lacks_is_refused_by_name(
        self, trt: RecordingTensorRT, tmp_path: Path, conv_net: Path
    ) -> None:
        trt.ComputeCapability = SimpleNamespace(SM89=89)
        given = argparse.Namespace(**{**vars(GIVEN), "flavor": "tensorrt-rtx"})
        with pytest.raises(Failed, match=r"tensorrt-rtx .* builds no engine for sm87") as caught:
            build.finish(handed_over(tmp_path, conv_net, target="orin"), given)
        assert caught.value.code == 5
        assert not list((tmp_path / "handover").glob("*.plan*"))

    def test_says_what_trtpipe_would(self, trt: RecordingTensorRT, folder: Path, capsys: Any) -> None:
        assert build.finish(folder, GIVEN) == 0
        strongly = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert f"Builder.create_network({strongly})" in trt.calls
        assert "IOptimizationProfile.set_shape('x', (1, 3, 16, 16), (2, 3, 16, 16), (8, 3, 16, 16))" in trt.calls
        assert "IBuilderConfig.profiling_verbosity = DETAILED" in trt.calls
        assert not [call for call in trt.calls if "set_flag" in call]
        assert "NOT JUDGED: engine for sm89: built, not executed" in capsys.readouterr().out

    def test_writes_the_plan_its_record_and_a_verdict(self, trt: RecordingTensorRT, folder: Path) -> None:
        build.finish(folder, GIVEN)
        record = EngineRecord.read(folder / "sm89.plan.json")
        assert (record.flavor, record.version, record.target) == ("tensorrt", trt.__version__, "sm89")
        assert record.profiles[0]["x"].max == (8, 3, 16, 16)
        assert [str(each) for each in record.io.inputs] == ["x: float32[Nx3x16x16]"]
        assert (folder / "sm89.plan").read_bytes().startswith(b"ftrt")
        verdict = json.loads((folder / "finished.json").read_text())["verdict"]
        assert (verdict["outcome"], verdict["samples"], verdict["data"]) == ("not judged", 0, "none")
        assert not (folder / "parity.json").exists()

    def test_options_reach_the_builder(self, trt: RecordingTensorRT, tmp_path: Path, conv_net: Path) -> None:
        options = {"workspace": 1 << 30, "opt_level": 4, "max_aux_streams": 2, "sparsity": True, "gpu_fallback": True,
                   "dla_core": 1, "strip_weights": True, "hardware_compatibility": "ampere+"}  # fmt: skip
        made = handed_over(tmp_path, conv_net, target="orin", **options)
        number = (11, 4, 1) if trt.__version__.startswith("11") else (10, 3, 0)
        trt.__version__ = ".".join(map(str, number))
        build.finish(made, GIVEN)
        said = {call.removeprefix("IBuilderConfig.") for call in trt.calls if call.startswith("IBuilderConfig.")}
        assert {"set_memory_pool_limit(WORKSPACE, 1073741824)", "builder_optimization_level = 4", "max_aux_streams = 2",
                "hardware_compatibility_level = AMPERE_PLUS", "default_device_type = DLA", "DLA_core = 1",
                "set_flag(SPARSE_WEIGHTS)", "set_flag(GPU_FALLBACK)", "set_flag(STRIP_PLAN)",
                "set_flag(REFIT_IDENTICAL)"} <= said  # fmt: skip

    def test_plug_ins_of_the_folder_are_loaded_first(
        self, trt: RecordingTensorRT, tmp_path: Path, conv_net: Path
    ) -> None:
        made = handed_over(tmp_path, conv_net, plugins=("/elsewhere/libnms.so",))
        with pytest.raises(Failed, match=r"libnms\.so: no such plug-in library"):
            build.finish(made, GIVEN)
        (made / "libnms.so").write_bytes(b"ELF")
        build.finish(made, GIVEN)
        parsed = next(index for index, call in enumerate(trt.calls) if call.startswith("OnnxParser"))
        assert trt.calls.index(f"IPluginRegistry.load_library({str(made / 'libnms.so')!r})") < parsed
        assert list(EngineRecord.read(made / "sm89.plan.json").plugins) == ["libnms.so"]

    def test_the_plan_goes_into_the_model_repository(
        self, trt: RecordingTensorRT, tmp_path: Path, conv_net: Path
    ) -> None:
        made = handed_over(tmp_path, conv_net, repository="../repository/net/1/model.plan")
        build.finish(made, GIVEN)
        placed = tmp_path / "repository" / "net" / "1" / "model.plan"
        assert placed.read_bytes() == (made / "sm89.plan").read_bytes()

    @pytest.mark.parametrize("name", ["lowered.onnx", "reference.npz", "handover.json", "finish.py"])
    def test_a_folder_that_was_cut_short_is_not_built_from(
        self, trt: RecordingTensorRT, folder: Path, name: str
    ) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
        with pytest.raises(Failed, match=name) as caught:
            build.finish(folder, GIVEN)
        assert caught.value.code == 2
        assert not (folder / "sm89.plan").exists()

    @pytest.mark.parametrize("name", ["files", "inputs", "tolerances", "sha256", "dtype", "file"])
    def test_an_index_that_lacks_a_field_is_refused_before_anything_is_built(
        self, trt: RecordingTensorRT, folder: Path, name: str
    ) -> None:
        (folder / "model.json").write_text((folder / "model.json").read_text().replace(f'"{name}":', '"x":'))
        with pytest.raises(Failed, match=rf"model\.json: changed: it lacks '{name}'") as caught:
            build.finish(folder, GIVEN)
        assert caught.value.code == 2
        assert not trt.calls

    def test_a_plan_that_cannot_be_built_leaves_nothing(
        self, trt: RecordingTensorRT, folder: Path, monkeypatch: Any
    ) -> None:
        kind = trt.Builder
        monkeypatch.setattr(kind, "_do_Builder_build_serialized_network", lambda *_: None, raising=False)
        with pytest.raises(Failed, match="builds no engine") as caught:
            build.finish(folder, GIVEN)
        assert caught.value.code == 5
        assert not list(folder.glob("sm89.plan*"))


@pytest.mark.parametrize(("version", "target", "word"), [
    ("8.5.2.2", "orin", "JetPack 5"), ("10.2.0", "l4", "10.2.0"), ("11.2.0", "orin", "11.4.1"),
    ("11.4.0.106", "thor", "sm110"), ("10.7.0", "sm120", "10.8"),
])  # fmt: skip
def test_versions_that_do_not_build_for_the_target_are_refused(version: str, target: str, word: str) -> None:
    row = find_target(target)
    job = {"target": row.name, "since": row.tensorrt.since, "gap": row.tensorrt.gap, "versions": str(row.tensorrt)}
    with pytest.raises(Failed, match=word) as caught:
        build.check_version(version, "tensorrt", job)
    assert caught.value.code == 6
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("version", "target"), [("10.3.0", "orin"), ("10.7.0.23", "orin"), ("11.4.1", "orin"), ("11.4.0", "l4")]
)
def test_versions_that_do_are_taken(version: str, target: str) -> None:
    row = find_target(target)
    job = {"target": row.name, "since": row.tensorrt.since, "gap": row.tensorrt.gap, "versions": str(row.tensorrt)}
    build.check_version(version, "tensorrt", job)


def test_a_version_without_dla_is_refused_where_that_is_asked_for(tmp_path: Path, conv_net: Path) -> None:
    job = build.read_json(handed_over(tmp_path, conv_net, target="orin", dla_core=0) / "handover.json")
    build.check_version("10.7.0", "tensorrt", job)
    build.check_version("11.4.1", "tensorrt", job)
    with pytest.raises(Failed, match=r"10\.3 to 10\.7, 11\.4\.1 and newer"):
        build.check_version("10.13.3", "tensorrt", job)


def test_another_gpu_is_refused() -> None:
    class Other(Cuda):
        def capability(self) -> tuple[int, int]:
            return 8, 6

    with pytest.raises(Failed, match="this GPU is sm86, and the hand-over is for sm87"):
        build.check_gpu(Other(None), {"capability": [8, 7], "target": "sm87"})


class Opened(TimedEngine):
    """As the recording engine, with what is needed to read outputs."""

    def get_tensor_dtype(self, name: str) -> str:
        return "float"


def opened(cuda: FakeCudart) -> Engine:
    engine = Opened(cuda)
    TimedContext.get_tensor_shape = lambda self, name: self.shapes["x"][:1]
    trt = SimpleNamespace(
        **vars(TRT), Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
        nptype=lambda kind: np.float32,
    )  # fmt: skip
    return Engine(trt, None, Cuda(cuda), b"plan")


FEED = {"x": np.ones((6, 4), np.float32), "n": np.array([3], np.int64)}


def test_an_engine_runs_with_the_profile_that_admits_the_feed() -> None:
    cuda = FakeCudart()
    engine = opened(cuda)
    outputs = engine.run(FEED)
    assert {name: value.shape for name, value in outputs.items()} == {"y": (6,)}
    context = engine._engine.context
    assert context.profile == 1
    assert context.shapes == {"x": (6, 4), "n": (1,)}
    assert cuda.calls.index("execute") < cuda.calls.index("MemcpyAsync out")


def test_times_are_those_of_the_events(tmp_path: Path) -> None:
    cuda = FakeCudart(copy_seconds=0.002)
    found = opened(cuda).measure(FEED, "engine:sm87", "tensorrt 10.3.0 on Orin", 0.0, 0.0)
    assert found["iterations"] == 10
    assert found["parts"]["gpu_compute"]["median"] == pytest.approx(10.0)
    assert found["parts"]["h2d"]["median"] == pytest.approx(2.0)
    assert found["median"] == pytest.approx(14.0)
    (tmp_path / "latency.json").write_text(json.dumps(build.latency_report(found)))
    assert LatencyReport.read(tmp_path / "latency.json").measurements[0].p99 == pytest.approx(14.0)


def test_its_files_have_the_schemas_that_are_read() -> None:
    assert (build.MODEL_SCHEMA, build.JOB_SCHEMA, build.FINISHED_SCHEMA) == (record.SCHEMA, SCHEMA, FINISHED_SCHEMA)
    assert (build.RECORD_SCHEMA, build.PARITY_SCHEMA) == (EngineRecord.SCHEMA, ParityReport.SCHEMA)
    assert build.LATENCY_SCHEMA == LatencyReport.SCHEMA


def test_percentiles_are_trtexec_s() -> None:
    from trtpipe.latency.statistics import times

    seconds = np.random.default_rng(3).gamma(2.0, 0.001, 137)
    assert judge.times(seconds.tolist()) == pytest.approx(times(seconds).to_dict())


def outputs(kind: str, offset: float, noise: float, shapes: Sequence[tuple[int, ...]]) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(5)
    wanted = [rng.normal(size=shape) * 3 + offset for shape in shapes]
    found = [value + rng.normal(size=value.shape) * noise for value in wanted]
    if kind == "int64":
        return [np.rint(v).astype(kind) for v in found], [np.rint(v).astype(kind) for v in wanted]
    return [v.astype(kind) for v in found], [v.astype(kind) for v in wanted]


def model_of(rule: Any) -> dict[str, Any]:
    return {"tolerances": {"y": rule.to_dict()}, "unordered": [], "ignored": {}}


def feeds_of(values: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{"y": value} for value in values]


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("kind", ["float32", "float16", "int64"])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.5, 20.0])
@pytest.mark.parametrize("shapes", [[(4, 5)], [(2, 3, 7)] * 3, [(1, 4, 6), (2, 4, 9)], [(1, 3)]])
def test_outputs_are_judged_as_trtpipe_does(real: bool, kind: str, noise: float, shapes: list[tuple[int, ...]]) -> None:
    for offset in (0.0, 290.0):
        for rule in (Tolerance(), Tolerance(stat="elemwise", atol=0.1, rtol=0.0), Tolerance(stat="max", rtol=0.1),
                     Tolerance(min_cosine=0.999, min_snr_db=40.0)):  # fmt: skip
            found, wanted = outputs(kind, offset, noise, shapes)
            comparison = OutputComparison(rule, Precision.int8, real=real)
            for mine, theirs in zip(found, wanted, strict=True):
                comparison.add({"y": mine}, {"y": theirs})
            (expected,) = comparison.results()
            [got] = judge.judge_outputs(model_of(expected.tolerance), feeds_of(found), feeds_of(wanted),
                                        [{}] * len(found), real=real)  # fmt: skip
            assert (got["passed"], tuple(got["broken"])) == (expected.passed, expected.broken)
            assert (got["worst_feed"], tuple(got["worst_index"])) == (expected.worst_feed, expected.worst_index)
            medians = ("median_abs",) if len(shapes) == 1 else ()  # one for each feed there, for each chunk here
            for name in ("max_abs", "mean_abs", "scale", "cosine", "agreement", "snr_db", "about_mean", *medians):
                wanted_value = getattr(expected, name)
                assert got[name] == (wanted_value if wanted_value is None else pytest.approx(wanted_value, 1e-4, 1e-6))


def detections(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "boxes": rng.normal(size=(2, 9, 4)).astype(np.float32),
        "scores": rng.normal(size=(2, 9)).astype(np.float32),
    }


@pytest.mark.parametrize("noise", [0.0, 1e-3, 3.0])
@pytest.mark.parametrize("declared", [True, False])
def test_rows_in_another_order_and_what_does_not_count_are_judged_as_trtpipe_does(
    folder: Path, noise: float, declared: bool
) -> None:
    """Of the same outputs, whether the profile declares them or not."""
    rule = Tolerance(unordered=("boxes", "scores") if declared else (), ignore={"hidden": "mask"} if declared else {})
    feeds = [{"mask": np.array([[1, 1, 0], [1, 0, 0]], np.int64)} for _ in range(2)]
    wanted = [{**detections(seed), "hidden": normal(2, 3, 5, seed=seed)} for seed in (1, 2)]
    found = []
    for each, feed in zip(wanted, feeds, strict=True):
        order = np.random.default_rng(5).permutation(9)
        rows = {name: each[name][:, order] + np.float32(noise) for name in ("boxes", "scores")}
        found.append({**rows, "hidden": np.where(feed["mask"][:, :, None] == 0, np.float32(99), each["hidden"])})
    comparison = OutputComparison(rule, Precision.int8, real=True)
    for feed, mine, theirs in zip(feeds, found, wanted, strict=True):
        comparison.add(mine, theirs, feed)
    expected = {each.output: each for each in comparison.results()}
    model, job = build.read_folder(folder)
    model |= {"unordered": list(rule.unordered), "ignored": dict(rule.ignore),
              "tolerances": {name: each.tolerance.to_dict() for name, each in expected.items()}}  # fmt: skip
    report = build.judge(model, job, "tensorrt 10.3.0 on Orin", found, wanted, feeds, "0" * 64)
    got = {each["output"]: each for each in report["comparisons"][0]["outputs"]}
    assert {name: each["passed"] for name, each in got.items()} == {n: each.passed for n, each in expected.items()}
    assert got["boxes"]["max_abs"] == pytest.approx(expected["boxes"].max_abs, 1e-4, 1e-6)
    assert report["passed"] == (declared and noise < 1)


def test_a_mask_that_is_missing_is_an_error_of_its_own(folder: Path, tmp_path: Path) -> None:
    """In the joined file, where trtpipe's errors are not there."""
    (tmp_path / "joined.py").write_text(source())
    code = (
        "import joined, numpy as np\n"
        "y = {'y': np.ones((1, 2), np.float32)}\n"
        "try: joined.counted(y, y, {'y': 'mask'}, {})\n"
        "except joined.Failed as error: print(error.code, error, '|', error.remedy)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env={}
    )
    assert done.stdout.startswith("3 ignore: y: there is no input or output 'mask' | ")


def test_nan_is_never_within_tolerance() -> None:
    found, wanted = [np.array([[1.0, np.nan]], np.float32)], [np.array([[1.0, 2.0]], np.float32)]
    model = model_of(Tolerance(atol=1e9).for_output("y", Precision.int8))
    [record] = judge.judge_outputs(model, feeds_of(found), feeds_of(wanted), [{}], real=True)
    assert not record["passed"]


def test_an_output_of_another_shape_is_an_error() -> None:
    model = model_of(Tolerance().for_output("y", Precision.int8))
    with pytest.raises(Failed, match="'y'"):
        judge.judge_outputs(model, feeds_of([np.zeros((1, 2))]), feeds_of([np.zeros((1, 3))]), [{}], real=True)


@pytest.mark.parametrize("noise", [0.0, 1e-3, 30.0])
def test_the_report_is_one_that_a_verification_could_have_written(folder: Path, noise: float) -> None:
    model, job = build.read_folder(folder)
    model["tolerances"] = {"y": Tolerance().for_output("y", Precision.int8).to_dict()}
    feeds = [{"x": normal(2, 3, 16, 16)}, {"x": normal(1, 3, 16, 16, seed=4)}]
    wanted = [{"y": feed["x"] * 2} for feed in feeds]
    found = [{"y": each["y"] + noise * normal(*each["y"].shape, seed=9)} for each in wanted]
    report = build.judge(model, job, "tensorrt 10.3.0 on Orin", found, wanted, feeds, "0" * 64)
    build.write_json(folder / "parity.json", report)
    read = ParityReport.read(folder / "parity.json")
    require_report("parity.json", read)
    assert read.passed == (noise < 1)
    assert (read.feeds, read.samples, read.synthetic) == (2, 3, False)
    assert build.verdict(job, report, None, "tensorrt")["verdict"]["exit_code"] == (0 if noise < 1 else 3)
