"""What comes with trtpipe by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import trtpipe
from trtpipe.config.presets import found, presets
from trtpipe.errors import RecipeError

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(("kind", "folder"), [("calib", "calib"), ("profiles", "profiles")])
def test_all_files_of_the_repository_but_those_of_the_example(kind, folder) -> None:
    assert presets(kind).keys() == {path.stem for path in (ROOT / folder).glob("*.toml")} - {"digits"}


@pytest.mark.parametrize("name", presets("calib"))
def test_a_recipe_by_its_name(name: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = trtpipe.CalibrationRecipe.load(name)
    assert recipe.description
    assert recipe.data.source == ""
    assert "Source: " in presets("calib")[name].read_text() or name == "imagenet"


@pytest.mark.parametrize("name", presets("profiles"))
def test_a_profile_by_its_name(name: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert trtpipe.DeploymentProfile.load(name).description


def test_a_file_of_the_user_comes_first(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("imagenet").write_text('method = "max"\n')
    assert trtpipe.CalibrationRecipe.load("imagenet").method == "max"


def test_a_name_that_nothing_has(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="imagnet: no such file") as caught:
        trtpipe.CalibrationRecipe.load("imagnet")
    assert "imagenet" in caught.value.remedy


@pytest.mark.parametrize("path", ["gone.toml", "a/gone", "/gone"])
def test_paths_are_left_to_whoever_reads_them(path: str) -> None:
    assert found(Path(path), "calib") == Path(path)
