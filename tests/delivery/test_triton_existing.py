"""What is added to a model repository leaves no other version and no ensemble that no longer fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from delivery.repositories import batched, laid_out, packaged

from trtpipe.config.image_transform import ImageTransform
from trtpipe.config.triton import TritonSettings
from trtpipe.delivery.record import Postprocessing, Preprocessing, Tensor
from trtpipe.delivery.triton import Repository, repository
from trtpipe.delivery.triton_existing import check_existing
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

IMAGES: dict[str, Any] = {"preprocessing": (Preprocessing("x", ImageTransform(resize=(8, 8))),)}
WIDE: dict[str, Any] = {"outputs": (Tensor("y", "float32", ("N", 7)),)}
LARGE: dict[str, Any] = {"profiles": (batched(1, 2, 16),)}
NEWER: dict[str, Any] = {"version": "tensorrt-11.4.0.106"}


def scores(*classes: str) -> dict[str, Any]:
    return {"postprocessing": (Postprocessing("y", classes=True),), "classes": classes}


def made(folder: Path, name: str, package: dict[str, Any], **settings: Any) -> Repository:
    """The models of a package of this kind, with or without an ensemble as the settings say."""
    folder.mkdir()
    (folder / "work").mkdir()
    wanted = TritonSettings(name=name, preprocessing="preprocessing" in package, **settings)
    return repository(packaged(folder, **package), wanted, folder / "work")


@pytest.mark.parametrize(("before", "after", "word"), [
    (("m", {}, 1), ("m", WIDE, 2), "version 1"),
    (("m", {}, 1), ("m", LARGE, 2), "version 1"),
    (("m", scores("a", "b"), 1), ("m", scores("b", "a"), 2), "version 1"),
    (("m", IMAGES, 1), ("m", WIDE, 1), "the ensemble m_images"),
    (("m_preprocess", {}, 1), ("m", IMAGES, 1), "of tensorrt, is there, and this one is of python"),
    (("m_images", {}, 1), ("m", IMAGES, 1), "of tensorrt, is there, and this one is of ensemble"),
    (("m", IMAGES, 1), ("m_preprocess", {}, 1), "of python, is there, and this one is of tensorrt"),
    (("m", IMAGES, 1), ("m_images", {}, 2), "of ensemble, is there, and this one is of tensorrt"),
])  # fmt: skip
def test_what_would_no_longer_fit_is_refused(tmp_path: Path, before: Any, after: Any, word: str) -> None:
    out = laid_out(made(tmp_path / "a", *before[:2], version=before[2]).files, tmp_path / "repository")
    with pytest.raises(InputError, match=word) as caught:
        check_existing(made(tmp_path / "b", *after[:2], version=after[2]), out)
    assert str(out / after[0]) in caught.value.message


@pytest.mark.parametrize(("before", "after"), [
    (("m", {}, 1), ("m", NEWER, 2)),
    (("m", {}, 1), ("m", WIDE, 1)),
    (("m", {}, 1), ("n", WIDE, 2)),
    (("m", IMAGES, 1), ("m", {}, 2)),
    (("m", IMAGES, 1), ("m", {**IMAGES, **WIDE}, 1)),
    (("m", IMAGES, 1), ("n", IMAGES, 1)),
    (("m", scores("a", "b"), 1), ("m", scores("a", "b"), 2)),
])  # fmt: skip
def test_what_fits_is_added(tmp_path: Path, before: Any, after: Any) -> None:
    out = laid_out(made(tmp_path / "a", *before[:2], version=before[2]).files, tmp_path / "repository")
    check_existing(made(tmp_path / "b", *after[:2], version=after[2]), out)


def test_other_settings_of_a_new_version_are_taken(tmp_path: Path) -> None:
    out = laid_out(made(tmp_path / "a", "m", {}).files, tmp_path / "repository")
    check_existing(made(tmp_path / "b", "m", {}, version=2, instances=3, warmup=False, max_queue_delay="1ms"), out)
