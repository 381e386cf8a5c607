from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trtpipe.config.recipe import CalibrationRecipe, DataSettings, ImageSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeContract


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": ""}, "no data is given"),
        ({"source": "{0}/nothing.npz"}, r"nothing\.npz: no such file or folder"),
        ({"source": "{0}/data.csv"}, r"data\.csv: not a kind of data trtpipe reads"),
        (
            {"source": "{0}/x.npz", "image": ImageSettings()},
            "this is an .npz file, and image preprocessing",
        ),
        ({"source": "{0}/x.npy", "labels": "y"}, "this is an .npy file, which has no array 'y'"),
        ({"source": "{0}", "labels": "y"}, "this is a folder of images, which has no array 'y'"),
    ],
)
def test_errors(tmp_path: Path, contract: MakeContract, settings: dict[str, Any], message: str) -> None:
    (tmp_path / "data.csv").touch()
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    np.save(tmp_path / "x.npy", np.zeros(3))
    source = settings["source"].format(tmp_path)
    with pytest.raises(InputError, match=message):
        open_dataset(DataSettings(**{**settings, "source": source}), contract(x=("float32", ("N",))))


def test_the_recipe_leaves_modules_alone_and_finds_files_beside_itself(tmp_path: Path) -> None:
    sources = {
        "package.module:feeds": "package.module:feeds",
        "data.py:feeds": f"{tmp_path / 'data.py'}:feeds",
        "sub/data.py:feeds": f"{tmp_path / 'sub' / 'data.py'}:feeds",
        "images": str(tmp_path / "images"),
    }
    for written, resolved in sources.items():
        (tmp_path / "recipe.toml").write_text(f'[data]\nsource = "{written}"\n')
        assert CalibrationRecipe.load(tmp_path / "recipe.toml").data.source == resolved
