"""Sizes of dimensions that nobody gave: 1 where they have no name, a question to the user where they do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from models import model, save

from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.errors import InputError
from trtpipe.pipeline.run_state import RunState, artifact_from_file, check_classes, data_settings, with_shapes

if TYPE_CHECKING:
    from trtpipe.config.job import Job

SHAPES = {"x": {"min": [2, 4], "opt": [2, 4], "max": [2, 4]}}


def state(graph: str, folder: Path, *, engines: bool = True) -> RunState:
    artifact = artifact_from_file("model", save(model(graph), folder / "model.onnx"))
    return RunState({"model": artifact}, complete_shapes=engines)


def sizes(job: Job) -> dict[str, tuple[int, ...]]:
    (profile,) = job.profile.shapes
    assert all(shape.min == shape.opt == shape.max for shape in profile.values())
    return {name: shape.opt for name, shape in profile.items()}


class TestSizesOfOne:
    def test_dimensions_without_a_name_are_1(self, make_job: Any, tmp_path: Path, heard_all: Any) -> None:
        run = state("(float[?,4] x, float[2,?] z, float[3] s) => (float[?,4] y) { y = Neg(x) }", tmp_path)
        found = with_shapes(make_job(), run, heard_all)
        assert sizes(found) == {"x": (1, 4), "z": (2, 1)}
        assert run.shapes_inferred
        (warning,) = heard_all.warnings
        assert "x:1x4, z:2x1" in warning
        assert with_shapes(found, run, heard_all) is found
        assert len(heard_all.warnings) == 1

    @pytest.mark.parametrize(
        "inputs",
        [
            "float[N,4] x",  # a name: it is to vary
            "float[?,4] x, float[N] z",
            "float[?,N] x",
            "float[] x, float[2] z",
            "float x",  # any rank
            "float[2,4] x",
        ],
    )
    def test_all_others_stay_open(self, inputs: str, make_job: Any, tmp_path: Path, heard_all: Any) -> None:
        run, job = state(f"({inputs}) => (float y) {{ y = Neg(x) }}", tmp_path), make_job()
        assert with_shapes(job, run, heard_all) is job
        assert not run.shapes_inferred
        assert heard_all.warnings == []

    def test_shapes_that_are_given_count(self, make_job: Any, tmp_path: Path, heard_all: Any) -> None:
        job = make_job(shapes=SHAPES)
        assert with_shapes(job, state("(float[?,4] x) => (float[?,4] y) { y = Neg(x) }", tmp_path), heard_all) is job

    def test_no_engine_needs_them(self, make_job: Any, tmp_path: Path, heard_all: Any) -> None:
        run, job = state("(float[?,4] x) => (float[?,4] y) { y = Neg(x) }", tmp_path, engines=False), make_job()
        assert with_shapes(job, run, heard_all) is job

    def test_a_build_goes_through_with_them(self, make_job: Any, tmp_path: Path, heard_all: Any) -> None:
        import trtpipe

        path = save(model("(float[?,4] x) => (float[?,4] y) { y = Neg(x) }"), tmp_path / "net.onnx")
        job = make_job(path, precision="fp16")
        result = trtpipe.build(job, tmp_path / "out", progress=heard_all)
        assert sum("taken for 1" in warning for warning in heard_all.warnings) == 1
        assert result.verdict.exit_code == 0


class TestDataOfARecipe:
    @staticmethod
    def job(data: Path, evaluation: Path, labels: str = "") -> Job:
        from trtpipe.api.request import make_job

        given = {"data": {"source": str(data)}, "evaluation": {"source": str(evaluation), "labels": labels}}
        return make_job("m.onnx", engines=False, recipe=CalibrationRecipe.model_validate(given))

    @pytest.mark.parametrize(
        ("there", "wrong", "hint"),
        [
            (("red", "Pink"), "Pink", "did you mean 'pink'"),
            (("red", "ivory"), "ivory", "rename the folder"),
            (("red", "pink"), "", ""),
            (("red", "pink", "blue", "green"), "", ""),
            (("a", "b"), "", ""),
        ],
    )
    def test_a_folder_that_is_no_class_is_named_at_the_start(
        self, tmp_path: Path, there: tuple[str, ...], wrong: str, hint: str
    ) -> None:
        for name in (*(f"all/{each}" for each in ("red", "pink", "blue")), *(f"some/{each}" for each in there)):
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "1.png").write_bytes(b"")
        job = self.job(tmp_path / "all", tmp_path / "some")
        if not wrong:
            check_classes(job)
            return
        with pytest.raises(InputError, match=f"'{wrong}' is none of the 3 classes") as caught:
            check_classes(job)
        assert hint in caught.value.remedy

    def test_labels_of_the_evaluation_are_no_input_of_the_calibration(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "both.npz", x=np.zeros((4, 2)), labels=np.zeros(4, int))
        np.savez(tmp_path / "bare.npz", x=np.zeros((4, 2)))
        both, bare = tmp_path / "both.npz", tmp_path / "bare.npz"
        for data, name in ((both, "labels"), (bare, "")):
            settings = data_settings("calibration-data", self.job(data, both, "labels"))
            assert settings is not None
            assert settings.labels == name
