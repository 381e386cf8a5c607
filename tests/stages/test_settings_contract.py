"""Keys hold what stages read, and no more: each field that a user can set, and the stages that it concerns."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pydantic import BaseModel

from trtpipe.backends.base import BACKENDS
from trtpipe.backends.null import Null
from trtpipe.config.build_request import BuildRequest
from trtpipe.config.job import Job
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.config.source import FactorySource, OnnxSource
from trtpipe.config.target import find_target
from trtpipe.data.dataset import open_dataset
from trtpipe.pipeline.executor import input_digests, prepared_without_store
from trtpipe.pipeline.pipeline import STAGES
from trtpipe.preflight.onnx_io import read_contract
from trtpipe.stages.evaluate import Evaluate
from trtpipe.stages.sensitivity import MeasureSensitivity
from trtpipe.stages.stage import Inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.stages.stage import Stage

EVERY: tuple[Stage[Any], ...] = (*STAGES, Evaluate("lowered"), MeasureSensitivity())


def span(low: int, typical: int, high: int) -> dict[str, dict[str, list[int]]]:
    return {"x": {"min": [low, 4], "opt": [typical, 4], "max": [high, 4]}}


IMAGE = {"channels": "RGB", "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
#: A request to which every field matters, as far as that can be: see ``every_field_matters``.
PROFILE: dict[str, Any] = {
    "precision": "best",
    "targets": ["sm89"],
    "backend": "null",
    "shapes": [span(1, 2, 8)],
    "build": {"version_compatible": True, "dla_core": 0},
    "latency": {"cpu": True},
}
RECIPE: dict[str, Any] = {
    "data": {"source": "calib", "image": IMAGE},
    "evaluation": {"source": "eval", "metric": "score.py:score", "image": IMAGE},
}
#: The same on sounds.
SOUNDS: dict[str, Any] = {
    "data": {"source": "calib", "audio": {}},
    "evaluation": {"source": "eval", "metric": "score.py:score", "audio": {}},
}


@dataclass(frozen=True)
class Row:
    """Whom a field concerns.

    Attributes:
        value: another value than the request has.
        stages: whose settings it changes.
        kind: ``settings``; ``content`` (it says where or how to get an input, whose digest counts); ``pipeline`` (it
            counts as what the pipeline makes of it); ``runtime`` (it is no part of any result); ``words``.
    """

    value: object
    stages: str
    kind: str = "settings"


PLAN = "calibrate lower sensitivity bundle"
BUILD = "compile lower bundle"
TABLE: dict[str, Row] = {
    "profile.description": Row("words", "bundle", "words"),
    "profile.precision": Row("int8", "capture observe compile verify evaluate calibrate lower sensitivity bundle"),
    "profile.targets": Row(["sm120"], "lower compile verify measure bundle"),
    "profile.backend": Row("tensorrt", "lower compile verify measure bundle"),
    "profile.shapes": Row(
        [span(1, 4, 16)], "export capture simplify calibrate lower compile measure sensitivity bundle"
    ),
    "profile.auto_shapes": Row(True, "bundle", "pipeline"),
    "profile.keep": Row(["a"], PLAN),
    "profile.int8_nodes": Row(["a"], PLAN),
    "profile.tolerance.atol": Row(0.5, "calibrate lower verify bundle"),
    "profile.tolerance.rtol": Row(0.5, "calibrate lower verify bundle"),
    "profile.tolerance.stat": Row("mean", "calibrate lower verify bundle"),
    "profile.tolerance.min_cosine": Row(0.5, "calibrate lower verify bundle"),
    "profile.tolerance.min_snr_db": Row(5.0, "calibrate lower verify bundle"),
    "profile.tolerance.min_agreement": Row(0.5, "calibrate lower verify bundle"),
    "profile.tolerance.unordered": Row(["y"], "calibrate lower verify bundle"),
    "profile.tolerance.ignore": Row({"y": "x"}, "calibrate lower verify bundle"),
    "profile.tolerance.outputs": Row({"y": {"atol": 0.5}}, "calibrate lower verify bundle"),
    "profile.accuracy.max_drop": Row(0.5, "verify bundle"),
    "profile.accuracy.min_coverage": Row(0.5, "calibrate bundle"),
    "profile.accuracy.min_metric": Row({"top1": 0.5}, "verify bundle"),
    "profile.accuracy.samples": Row(5, "verify bundle"),
    "profile.latency.warmup": Row(0.5, "measure bundle"),
    "profile.latency.duration": Row(0.5, "measure bundle"),
    "profile.latency.iterations": Row(5, "measure bundle"),
    "profile.latency.cuda_graph": Row(False, "measure bundle"),
    "profile.latency.transfers": Row(False, "measure bundle"),
    "profile.latency.batches": Row([4], "measure bundle"),
    "profile.latency.max_p99": Row(0.5, "bundle"),
    "profile.latency.cpu": Row(False, "measure bundle"),
    "profile.build.workspace": Row(1 << 20, BUILD),
    "profile.build.opt_level": Row(1, BUILD),
    "profile.build.timing_cache": Row(False, BUILD),
    "profile.build.version_compatible": Row(False, BUILD),
    "profile.build.exclude_lean_runtime": Row(True, BUILD),
    "profile.build.hardware_compatibility": Row("ampere+", BUILD),
    "profile.build.weight_streaming": Row(True, BUILD),
    "profile.build.strip_weights": Row(True, BUILD),
    "profile.build.refit": Row(True, BUILD),
    "profile.build.sparsity": Row(True, BUILD),
    "profile.build.dla_core": Row(1, BUILD),
    "profile.build.gpu_fallback": Row(True, BUILD),
    "profile.build.max_aux_streams": Row(1, BUILD),
    "profile.build.plugins": Row(["plugin.so"], "bundle", "content"),
    "profile.build.shared_plan": Row(False, "bundle", "pipeline"),
    "profile.build.fold_preprocessing": Row(True, "export reference bundle"),
    "profile.build.time_limit": Row(5.0, "bundle", "runtime"),
    "profile.build.memory_limit": Row(1 << 30, "bundle", "runtime"),
    "profile.store.url": Row("s3://builds/trtpipe", "", "runtime"),
    "profile.export.opset": Row(18, "export bundle"),
    "profile.export.input_names": Row(["a"], "export capture bundle"),
    "profile.export.output_names": Row(["a"], "export capture bundle"),
    "profile.export.freeze_inputs": Row(["a"], "bundle"),  # of ONNX sources; see TestOnnxSources
    "profile.requantize": Row(True, "export reference bundle"),
    "recipe.description": Row("words", "", "words"),
    "recipe.method": Row("max", "calibrate bundle"),
    "recipe.percentile": Row(99.0, "calibrate bundle"),
    "recipe.weights": Row("mse", PLAN),
    "recipe.corrections": Row("none", "calibrate bundle"),
    "recipe.classes": Row(["a", "b"], "bundle", "content"),
    "recipe.data.classes": Row(["a", "b"], "", "content"),
    "recipe.evaluation.classes": Row(["a", "b"], "bundle", "content"),
    "recipe.data.source": Row("elsewhere", "", "content"),
    "recipe.data.labels": Row("y", "", "content"),
    "recipe.data.samples": Row(5, "", "content"),
    "recipe.data.seed": Row(5, "", "content"),
    "recipe.data.batch": Row(5, "", "content"),
    "recipe.data.skip_bad_samples": Row(5, "observe calibrate sensitivity"),
    "recipe.evaluation.source": Row("elsewhere", "", "content"),
    "recipe.evaluation.labels": Row("y", "", "content"),
    "recipe.evaluation.samples": Row(5, "", "content"),
    "recipe.evaluation.seed": Row(5, "", "content"),
    "recipe.evaluation.batch": Row(5, "", "content"),
    "recipe.evaluation.skip_bad_samples": Row(5, "", "content"),
    "recipe.evaluation.metric": Row("top5", "verify evaluate"),
    "recipe.evaluation.output": Row("y", "verify evaluate"),
    "recipe.evaluation.lower_is_better": Row(True, "verify evaluate"),
    **{
        f"recipe.{data}.audio.{name}": Row(value, "", "content")
        for data in ("data", "evaluation")
        for name, value in {
            "input": "x", "sample_rate": 8000, "window": 8, "hop": 8, "bands": 8, "seconds": 5.0, "decades": 5.0,
            "mean": 5.0, "std": 5.0,
        }.items()
    },
    **{
        f"recipe.{data}.image.{name}": Row(value, "", "content")
        for data in ("data", "evaluation")
        for name, value in {
            "input": "x", "resize": 8, "crop": [8, 8], "channels": "BGR", "layout": "HWC", "interpolation": "nearest",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "letterbox": [8, 8], "pad": [8, 8], "fill": 0,
        }.items()
    },
}  # fmt: skip
#: What else a request holds.
REQUEST: dict[str, Row] = {
    "source": Row(OnnxSource(Path("net.onnx")), "export reference bundle", "content"),
    "backend": Row("tensorrt", "lower compile verify measure bundle"),
    "targets": Row((find_target("sm120"),), "lower verify measure bundle"),
    "target": Row(find_target("sm120"), "compile"),
    "handed_over": Row((find_target("sm87"),), "bundle"),
    "together": Row((find_target("sm89"), find_target("sm86")), "compile"),
    "simplify": Row(False, "simplify bundle"),
    "allow_random": Row(True, "", "content"),
}


def leaves(record: type[BaseModel], prefix: str) -> Iterator[str]:
    """Dotted names of all fields, those of records in fields instead of these."""
    for name, info in record.model_fields.items():
        kinds = (info.annotation, *typing.get_args(info.annotation))
        inner = next((each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)), None)
        if inner is None or typing.get_origin(info.annotation) in (dict, tuple):
            yield f"{prefix}.{name}"
        else:
            yield from leaves(inner, f"{prefix}.{name}")


def with_field(record: dict[str, Any], path: list[str], value: object) -> dict[str, Any]:
    name, *rest = path
    return {**record, name: with_field(record.get(name) or {}, rest, value) if rest else value}


def request(profile: dict[str, Any] = PROFILE, recipe: dict[str, Any] = RECIPE) -> Job:
    found = DeploymentProfile.model_validate(profile)
    targets = tuple(map(find_target, found.targets))
    settings = Settings(cache_dir=Path("cache"))
    job = Job(FactorySource("net.py", "net"), found, CalibrationRecipe.model_validate(recipe), found.backend, targets,
              settings=settings)  # fmt: skip
    return job.for_target(targets[0])


def settings(job: Job) -> dict[str, dict[str, Any]]:
    return {stage.name: stage.settings(job).to_dict() for stage in EVERY}


def changed(before: Job, after: Job) -> set[str]:
    one, other = settings(before), settings(after)
    return {name for name in one if one[name] != other[name]}


@pytest.fixture
def every_field_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The back-end compiles PyTorch programs, and builds so quickly that engines are compared; so does another one."""
    monkeypatch.setattr(Null, "consumes", "program")
    monkeypatch.setattr(Null, "quick_reports", True)
    monkeypatch.setitem(BACKENDS, "tensorrt", ("trtpipe", "trtpipe.backends.null:Null"))


class TestTable:
    def test_every_field_is_in_it(self) -> None:
        assert set(TABLE) == {*leaves(DeploymentProfile, "profile"), *leaves(CalibrationRecipe, "recipe")}
        assert set(REQUEST) | {"profile", "recipe"} == {each.name for each in dataclasses.fields(BuildRequest)}

    @pytest.mark.usefixtures("every_field_matters")
    @pytest.mark.parametrize("name", TABLE)
    def test_a_field_changes_the_settings_of_just_these_stages(self, name: str) -> None:
        row, (which, *path) = TABLE[name], name.split(".")
        base = {"profile": PROFILE, "recipe": SOUNDS if "audio" in path else RECIPE}
        after = base | {which: with_field(base[which], path, row.value)}
        assert changed(request(**base), request(**after)) == set(row.stages.split())

    @pytest.mark.parametrize(
        ("field", "value", "stages"),
        [
            ("export", {"freeze_inputs": ["a"]}, {"export", "bundle"}),
            ("requantize", True, {"export", "bundle"}),
            ("export", {"opset": 18}, {"bundle"}),
        ],
    )
    def test_of_an_onnx_source_other_fields_count(self, field: str, value: object, stages: set[str]) -> None:
        source = OnnxSource(Path("net.onnx"))
        before, after = (
            replace(request(profile), source=source)
            for profile in (
                {"backend": "null", "targets": ["sm89"]},
                {"backend": "null", "targets": ["sm89"], field: value},
            )
        )
        assert changed(before, after) == stages

    def test_of_an_onnx_source_the_kind_of_floats_counts_that_it_may_keep(self) -> None:
        def kept(precision: str) -> object:
            job = replace(request({"precision": precision, "backend": "null", "targets": ["sm89"]}), source=source)
            return settings(job)["export"]["kept"]

        source = OnnxSource(Path("net.onnx"))
        assert [kept(each) for each in ("fp16", "bf16", "fp32", "int8", "best")] == ["fp16", None, None, None, None]

    @pytest.mark.parametrize("name", ["mean", "std", "layout", "input", "resize"])
    def test_of_images_that_the_graph_prepares_how_it_does_counts(self, name: str) -> None:
        folding = {**PROFILE, "build": {"fold_preprocessing": True}}
        other = {**IMAGE, name: TABLE[f"recipe.data.image.{name}"].value}
        before, after = (request(folding, {"data": {"source": "calib", "image": each}}) for each in (IMAGE, other))
        assert changed(before, after) == (set() if name == "resize" else {"export", "reference"})

    @pytest.mark.usefixtures("every_field_matters")
    @pytest.mark.parametrize("name", REQUEST)
    def test_so_does_what_else_is_asked_for(self, name: str) -> None:
        found = replace(request(), **{name: REQUEST[name].value})
        assert changed(request(), found) == set(REQUEST[name].stages.split())

    @pytest.mark.parametrize("row", [row for row in TABLE.values() if row.kind in ("runtime", "words")])
    def test_what_is_for_people_or_for_the_machine_is_quoted_at_most(self, row: Row) -> None:
        assert set(row.stages.split()) <= {"bundle"}

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Settings)])
    def test_the_machine_changes_nothing(self, field: str) -> None:
        values = {"cache_dir": Path("elsewhere"), "sandbox": False, "isolate": False}
        job = request()
        assert changed(job, replace(job, settings=replace(job.settings, **{field: values.get(field, 7)}))) == set()

    def test_limits_of_a_build_reach_the_machine(self) -> None:
        limited = request({**PROFILE, "build": {"time_limit": 5.0, "memory_limit": 1 << 30}}).runtime
        assert (limited.engine_seconds, limited.engine_memory) == (5.0, 1 << 30)

    def test_random_samples_follow_the_shapes_and_given_ones_do_not(self) -> None:
        bare, wide = (
            {"targets": ["sm89"], "backend": "null", "shapes": [span(*sizes)]} for sizes in ((1, 2, 8), (1, 4, 8))
        )
        assert {"reference", "verify"} <= changed(request(bare, {}), request(wide, {}))
        data = {"data": {"source": "calib"}}
        assert not {"reference", "verify"} & changed(request(bare, data), request(wide, data))

    def test_what_does_not_apply_is_no_part_of_a_record(self) -> None:
        int8 = {**PROFILE, "precision": "int8"}
        assert changed(request(int8), request({**int8, "int8_nodes": ["a"]})) == {"bundle"}
        plain = {"method": "max", "corrections": "none", "data": {"source": "calib"}}
        assert "calibrate" not in changed(request(int8, plain), request(int8, {**plain, "percentile": 99.0}))
        assert "calibrate" not in changed(request(int8, plain), request({**int8, "keep": ["a"]}, plain))
        fp32 = {**PROFILE, "precision": "fp32"}
        assert changed(request(fp32), request({**fp32, "keep": ["a"]})) == {"bundle"}
        assert changed(request(fp32), request(fp32, {**RECIPE, "weights": "mse", "method": "max"})) == set()

    @pytest.mark.usefixtures("every_field_matters")
    def test_the_order_of_patterns_means_nothing(self) -> None:
        one, other = ({**PROFILE, "keep": keep, "int8_nodes": keep} for keep in (["b", "a"], ["a", "b", "a"]))
        assert changed(request(one), request(other)) == set()
        assert changed(request(one), request({**one, "keep": ["a"]})) == set(PLAN.split())

    @pytest.mark.usefixtures("every_field_matters")
    def test_nor_does_that_of_targets_but_in_the_index(self) -> None:
        named = [find_target(name) for name in ("sm89", "sm120")]
        one, other = (replace(request(), targets=tuple(targets)) for targets in (named, named[::-1]))
        assert changed(one, other) == {"bundle"}


class TestContent:
    """What the user brings counts by its content, whatever it is called."""

    @pytest.fixture
    def digests(self, tmp_path: Path) -> Any:
        proto = helper.make_model(helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [_value("x", "n", 4)],
                                                    [_value("y", "n", 4)]))  # fmt: skip
        onnx.save(proto, tmp_path / "net.onnx")
        np.savez(tmp_path / "calib.npz", x=np.arange(32, dtype=np.float32).reshape(8, 4))
        (tmp_path / "score.py").write_text("def score(outputs, labels): return 0.0\n")
        (tmp_path / "plugin.so").write_bytes(b"code")

        def of(job: Job) -> dict[str, str]:
            data = open_dataset(job.recipe.data, read_contract(tmp_path / "net.onnx"))
            inputs = prepared_without_store(Evaluate("model"), job, Inputs({}, {"calibration-data": data})).inputs
            return input_digests(job, replace(inputs, plugins=tuple(map(Path, job.profile.build.plugins))))

        return of

    def given(self, folder: Path, **data: object) -> Job:
        recipe = {"data": {"source": str(folder / "calib.npz"), **data},
                  "evaluation": {"metric": f"{folder / 'score.py'}:score"}}  # fmt: skip
        return request({**PROFILE, "build": {"plugins": [str(folder / "plugin.so")]}}, recipe)

    def test_a_copy_elsewhere_is_the_same(self, digests: Any, tmp_path: Path) -> None:
        copies = tmp_path / "copies"
        copies.mkdir()
        for name in ("calib.npz", "score.py", "plugin.so"):
            (copies / name).write_bytes((tmp_path / name).read_bytes())
        first = digests(self.given(copies))
        assert set(first) == {"calibration-data", "metric", "plugins"}
        assert digests(self.given(tmp_path))["calibration-data"] == first["calibration-data"]
        assert digests(self.given(tmp_path))["plugins"] == first["plugins"]
        moved = copies.rename(tmp_path / "moved")
        assert digests(self.given(moved)) == first

    # a metric's digest is that of all it reads: tests/pipeline/test_metric_keys.py
    @pytest.mark.parametrize(("name", "label"), [("calib.npz", "calibration-data"), ("plugin.so", "plugins")])
    def test_other_content_counts(self, digests: Any, tmp_path: Path, name: str, label: str) -> None:
        first = digests(self.given(tmp_path))
        if name == "calib.npz":
            np.savez(tmp_path / name, x=np.ones((8, 4), np.float32))
        else:
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"\n")
        assert digests(self.given(tmp_path))[label] != first[label]

    @pytest.mark.parametrize("data", [{"samples": 4}, {"samples": 4, "seed": 3}, {"batch": 2}])
    def test_so_does_what_is_taken_of_it(self, digests: Any, tmp_path: Path, data: dict[str, int]) -> None:
        first, found = digests(self.given(tmp_path)), digests(self.given(tmp_path, **data))
        assert {label for label in first if first[label] != found[label]} == {"calibration-data"}

    def test_the_seed_counts_only_where_it_chooses(self, digests: Any, tmp_path: Path) -> None:
        assert digests(self.given(tmp_path)) == digests(self.given(tmp_path, seed=3))


def _value(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
