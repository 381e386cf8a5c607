from __future__ import annotations

import os
from pathlib import Path

import pytest

from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.errors import RecipeError

FULL = """
description = "ImageNet"
method = "percentile"
percentile = 99.9
[data]
source = "images"
samples = 512
seed = 7
batch = 8
[data.image]
resize = 256
crop = [224, 224]
channels = "BGR"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[evaluation]
source = "held-out.npz"
labels = "y"
metric = "top5"
"""


def load(tmp_path: Path, text: str) -> CalibrationRecipe:
    (tmp_path / "r.toml").write_text(text)
    return CalibrationRecipe.load(tmp_path / "r.toml")


def test_a_full_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path, FULL)
    assert (recipe.method, recipe.percentile) == ("percentile", 99.9)
    assert (recipe.data.samples, recipe.data.seed, recipe.data.batch) == (512, 7, 8)
    image = recipe.data.image
    assert image is not None
    assert (image.resize, image.crop, image.channels, image.layout) == (256, (224, 224), "BGR", "CHW")
    assert image.std == (0.229, 0.224, 0.225)
    assert recipe.evaluation is not None
    assert (recipe.evaluation.metric, recipe.evaluation.labels) == ("top5", "y")


def test_relative_sources_belong_to_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load(tmp_path, FULL)
    assert recipe.data.source == str(tmp_path / "images")
    assert recipe.evaluation is not None
    assert recipe.evaluation.source == str(tmp_path / "held-out.npz")
    monkeypatch.chdir(tmp_path)
    assert Path(CalibrationRecipe.load(Path("r.toml")).data.source).resolve() == (tmp_path / "images").resolve()


def test_absolute_and_empty_sources_stay(tmp_path: Path) -> None:
    assert load(tmp_path, '[data]\nsource = "/data/images"').data.source == "/data/images"
    assert load(tmp_path, "").data.source == ""
    assert load(tmp_path, "").evaluation is None


def test_a_function_in_a_file_is_anchored_too(tmp_path: Path) -> None:
    assert load(tmp_path, '[data]\nsource = "data.py:feeds"').data.source == f"{tmp_path}/data.py:feeds"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("percentil = 99", "unknown key 'percentil'"),
        ("percentile = 50", "percentile"),
        ("percentile = 100.1", "percentile"),
        ("percentile = nan", "percentile"),
        ('method = "kl"', "method"),
        ("[data]\nsamples = 0", "data.samples"),
        ("[data]\nbatch = 0", "data.batch"),
        ("[data]\nseed = -1", "data.seed"),
        ("[data.image]\nresize = 0", "data.image.resize"),
        ("[data.image]\nresize = [256, 0]", "data.image.resize.1"),
        ("[data.image]\ncrop = [-1, 224]", "data.image.crop.0"),
        ("[data.image]\ncrop = [224]", "data.image.crop.1: the list is too short"),
        ("[data.image]\nstd = [0, 1, 1]", "data.image.std: every std must be greater than 0"),
        ("[data.image]\nstd = [nan, 1, 1]", "data.image.std.0"),
        ("[data.image]\nmean = [inf, 0, 0]", "data.image.mean.0"),
        ("[data.image]\nmean = [0.5]", "data.image: mean needs 3 value(s) for channels 'RGB', it has 1"),
        ('[data.image]\nchannels = "L"\nstd = [1, 1, 1]', "data.image: std needs 1 value(s)"),
        ('[evaluation]\nmetric = "top2"', "evaluation.metric"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path / 'r.toml'}: {words}")


def test_one_luma_channel(tmp_path: Path) -> None:
    image = load(tmp_path, '[data.image]\nchannels = "L"\nmean = [0.5]\nstd = [0.25]').data.image
    assert image is not None
    assert (image.mean, image.std) == ((0.5,), (0.25,))


@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_names_of_classes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "calib.toml").write_text(f'[evaluation]\nclasses = "{name}"\n')
    with pytest.raises(RecipeError, match="not a plain file"):
        CalibrationRecipe.load(tmp_path / "calib.toml")
