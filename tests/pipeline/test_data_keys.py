"""What of data sets enters keys besides the content of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.job import Job
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.data.dataset import open_dataset
from trtpipe.pipeline import executor
from trtpipe.stages.stage import Inputs

Image = pytest.importorskip("PIL.Image")
CONTRACT = IOContract(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("N", 3, 8, 8)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("N", 2)),),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 90 * number, np.uint8)).save(tmp_path / "photos" / name / "1.png")
    return tmp_path / "photos"


def digest(folder: Path, *, labels: bool = True, **evaluation: Any) -> str:
    """Of the evaluation data, as it enters the key of verify (``labels``), or of a stage that reads inputs alone."""
    recipe = CalibrationRecipe.model_validate({"evaluation": {"source": str(folder), "image": {}, **evaluation}})
    job = Job(None, DeploymentProfile(), recipe, "null", (), settings=Settings(cache_dir=folder / "cache"))
    assert recipe.evaluation is not None
    dataset = open_dataset(recipe.evaluation, CONTRACT)
    inputs = Inputs({}, {"evaluation-data": dataset}, labels_count=labels)
    return executor.input_digests(job, inputs)["evaluation-data"]


def test_names_of_classes_count_where_labels_do(folder: Path) -> None:
    named = digest(folder)
    assert named != digest(folder, classes=["cat", "dog", "horse"])
    unlabeled = digest(folder, labels=False)
    (folder / "dog").rename(folder / "fox")
    assert named != digest(folder)
    assert unlabeled == digest(folder, labels=False)


def test_how_many_images_may_be_broken_counts(folder: Path) -> None:
    assert digest(folder) != digest(folder, skip_bad_samples=1)


def test_what_decodes_images_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(folder)
    monkeypatch.setattr(executor, "versions", lambda names: dict.fromkeys(names, "another"))
    assert digest(folder) != before
