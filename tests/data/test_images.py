from __future__ import annotations

import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from trtpipe.config.recipe import DataSettings, ImageSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.data.images import list_images
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import MakeContract

    from trtpipe.artifact import IOContract

    Picture = Callable[..., Path]


@pytest.fixture
def model(contract: MakeContract) -> IOContract:
    return contract(image=("float32", ("N", 3, 4, 4)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten 4x4 images; number ``i`` is gray ``10 * i``."""
    folder = tmp_path / "imgs"
    folder.mkdir()
    for number in range(10):
        Image.new("L", (4, 4), 10 * number).save(folder / f"{number}.png")
    return folder


def first_pixels(dataset: Any) -> list[int]:
    return [round(float(row[0, 0, 0]) * 255) for sample in dataset for row in sample.feed["image"]]


class TestListing:
    def test_recursive_and_sorted_by_path(self, tmp_path: Path, picture: Picture) -> None:
        for name in ("b/2.png", "b/10.png", "a/z.JPG", "a/deep/er/x.jpeg"):
            picture(tmp_path / name)
        listing = list_images(tmp_path)
        assert [path.relative_to(tmp_path).as_posix() for path in listing.files] == [
            "a/deep/er/x.jpeg",
            "a/z.JPG",
            "b/10.png",
            "b/2.png",
        ]
        assert listing.labels == (0, 0, 1, 1)

    def test_classes_are_the_sub_folders_in_sorted_order_empty_ones_too(self, tmp_path: Path, picture: Picture) -> None:
        (tmp_path / "b_empty").mkdir()
        (tmp_path / ".hidden").mkdir()
        picture(tmp_path / "c" / "1.png")
        picture(tmp_path / "a" / "1.png")
        assert list_images(tmp_path).labels == (0, 2)

    def test_names_decide_the_numbers_where_they_are_known(self, tmp_path: Path, picture: Picture) -> None:
        for name in ("white", "pink"):
            picture(tmp_path / name / "1.png")
        listing = list_images(tmp_path, ("blue", "pink", "red", "white"))
        assert (listing.labels, listing.present) == ((1, 3), ("pink", "white"))
        with pytest.raises(InputError, match="'pink' is none of the 2 classes") as caught:
            list_images(tmp_path, ("pinc", "white"))
        assert "did you mean 'pinc'?" in caught.value.remedy

    def test_no_labels_when_an_image_lies_on_top(self, tmp_path: Path, picture: Picture) -> None:
        picture(tmp_path / "a" / "1.png")
        picture(tmp_path / "top.png")
        assert list_images(tmp_path).labels is None

    def test_other_entries_are_counted_hidden_ones_ignored(self, tmp_path: Path, picture: Picture) -> None:
        picture(tmp_path / "1.png")
        for name in ("notes.txt", "scan.tiff", ".DS_Store", "._1.png"):
            (tmp_path / name).write_text("x")
        os.mkfifo(tmp_path / "pipe.png")
        listing = list_images(tmp_path)
        assert (len(listing.files), listing.ignored) == (1, 3)

    def test_links_inside_are_used_linked_folders_are_not_followed(self, tmp_path: Path, picture: Picture) -> None:
        folder = tmp_path / "imgs"
        picture(folder / "1.png")
        (folder / "link.png").symlink_to("1.png")
        (folder / "around.png").symlink_to(folder / ".." / "imgs" / "1.png")
        (folder / "loop").symlink_to(folder)
        (folder / "dangling.png").symlink_to(tmp_path / "nothing.png")
        (tmp_path / "alias").symlink_to(folder)
        for where in (folder, tmp_path / "alias"):
            listing = list_images(where)
            assert ([path.name for path in listing.files], listing.ignored) == (["1.png", "around.png", "link.png"], 2)

    @pytest.mark.parametrize("target", ["../elsewhere/1.png", "hop.png", "/etc/passwd"])
    def test_links_to_outside_are_refused(self, tmp_path: Path, picture: Picture, target: str) -> None:
        folder = tmp_path / "imgs"
        picture(folder / "sub" / "1.png")
        picture(tmp_path / "elsewhere" / "1.png")
        (folder / "sub" / ".hop").symlink_to(tmp_path / "elsewhere")  # by way of a link inside
        (folder / "bad.png").symlink_to("sub/.hop/1.png" if target == "hop.png" else target)
        with pytest.raises(InputError, match=r"imgs/bad\.png: a link to outside the folder"):
            list_images(folder)


class TestFeeds:
    def test_all_images_in_order(self, folder: Path, model: IOContract) -> None:
        dataset = open_dataset(DataSettings(source=str(folder), batch=4), model)
        assert first_pixels(dataset) == [10 * i for i in range(10)]
        assert [sample.feed["image"].shape for sample in dataset] == [(4, 3, 4, 4), (4, 3, 4, 4), (2, 3, 4, 4)]
        assert (dataset.size, dataset.samples, dataset.seed) == (3, 10, None)
        assert dataset.name == "images under imgs (10 of 10)"

    def test_a_seeded_choice(self, folder: Path, model: IOContract) -> None:
        first, again, other = (
            open_dataset(DataSettings(source=str(folder), samples=4, seed=seed), model) for seed in (7, 7, 8)
        )
        assert first_pixels(first) == first_pixels(again) == sorted(first_pixels(first))
        assert first_pixels(first) != first_pixels(other)
        assert first.name == "images under imgs (4 of 10, seed 7)"

    def test_labels_follow_the_images(self, tmp_path: Path, model: IOContract) -> None:
        for name, gray in (("cat/1", 1), ("cat/2", 2), ("dog/1", 3), ("eel/1", 4)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("L", (4, 4), gray).save(tmp_path / f"{name}.png")
        samples = list(open_dataset(DataSettings(source=str(tmp_path), batch=3), model))
        assert [sample.labels.tolist() for sample in samples if sample.labels is not None] == [[0, 0, 1], [2]]

    def test_uint8_inputs_get_raw_pixels(self, folder: Path, contract: MakeContract) -> None:
        model = contract(image=("uint8", ("N", 4, 4, 3)))
        dataset = open_dataset(DataSettings(source=str(folder), image=ImageSettings(layout="HWC")), model)
        assert [sample.feed["image"][0, 0, 0].tolist() for sample in dataset][3] == [30, 30, 30]
        settings = ImageSettings(layout="HWC", mean=(0.5, 0.5, 0.5))
        with pytest.raises(InputError, match="takes uint8 pixels, so mean and std cannot be applied"):
            open_dataset(DataSettings(source=str(folder), image=settings), model)

    def test_float16_inputs_get_float16(self, folder: Path, contract: MakeContract) -> None:
        dataset = open_dataset(DataSettings(source=str(folder)), contract(image=("float16", ("N", 3, 4, 4))))
        assert next(iter(dataset)).feed["image"].dtype == np.float16

    def test_settings_are_kept_for_the_summary(self, folder: Path, model: IOContract) -> None:
        settings = ImageSettings(resize=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        dataset = open_dataset(DataSettings(source=str(folder), image=settings), model)
        assert dataset.preprocessing == settings
        np.testing.assert_allclose(next(iter(dataset)).feed["image"], -1)

    def test_memory_does_not_grow_with_the_folder(self, tmp_path: Path, contract: MakeContract) -> None:
        for number in range(40):
            Image.new("RGB", (256, 256), (number, 0, 0)).save(tmp_path / f"{number}.png")
        dataset = open_dataset(DataSettings(source=str(tmp_path)), contract(image=("float32", ("N", 3, 256, 256))))
        image_bytes = 3 * 256 * 256 * 4
        tracemalloc.start()
        try:
            assert sum(sample.rows for sample in dataset) == 40
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 12 * image_bytes


class TestDigest:
    def digest(self, folder: Path, model: IOContract, **settings: Any) -> str:
        return open_dataset(DataSettings(source=str(folder), **settings), model).digests()

    def test_is_of_content_and_order_not_of_names_and_times(
        self, folder: Path, model: IOContract, tmp_path: Path
    ) -> None:
        base = self.digest(folder, model)
        os.utime(folder / "3.png", (1, 1))
        (folder / "0.png").rename(folder / "00.png")
        assert self.digest(folder.rename(tmp_path / "elsewhere"), model, batch=5) == base

    def test_changes_with_a_byte_a_label_the_order_and_the_choice(self, folder: Path, model: IOContract) -> None:
        digests = {self.digest(folder, model), self.digest(folder, model, samples=9)}
        with (folder / "9.png").open("ab") as stream:
            stream.write(b"\0")
        digests.add(self.digest(folder, model))
        (folder / "0.png").rename(folder / "z.png")
        digests.add(self.digest(folder, model))
        assert len(digests) == 4

    def test_labels_count(self, tmp_path: Path, model: IOContract) -> None:
        digests = set()
        for layout in (("a/1.png", "b/2.png"), ("a/1.png", "a/2.png")):
            for name, gray in zip(layout, (1, 2), strict=True):
                path = tmp_path / str(len(digests)) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 4), gray).save(path)
            digests.add(self.digest(tmp_path / str(len(digests)), model))
        assert len(digests) == 2


class TestErrors:
    def message(self, folder: Path, model: IOContract, **settings: Any) -> InputError:
        with pytest.raises(InputError) as error:
            list(open_dataset(DataSettings(source=str(folder), **settings), model))
        assert str(folder) in error.value.message
        return error.value

    def test_one_bad_image_among_many_is_named(self, folder: Path, model: IOContract) -> None:
        (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:-30])
        assert "5.png: damaged" in self.message(folder, model, batch=4).message

    def test_one_image_of_another_size_is_named(self, folder: Path, model: IOContract) -> None:
        Image.new("RGB", (5, 4)).save(folder / "5.png")
        error = self.message(folder, model)
        assert "5.png: input 'image' has shape [1, 3, 4, 5], the model takes image: float32[?x3x4x4]" in error.message

    def test_an_empty_folder(self, tmp_path: Path, folder: Path, model: IOContract) -> None:
        (tmp_path / "empty").mkdir()
        assert "there are no samples" in self.message(tmp_path / "empty", model).message

    def test_models_that_do_not_take_one_image(self, folder: Path, contract: MakeContract, model: IOContract) -> None:
        two = contract(image=("float32", None), mask=("bool", None))
        assert "feeds one input, the model has 2: image, mask" in self.message(folder, two).message
        error = self.message(folder, model, image=ImageSettings(input="imgae"))
        assert "no input 'imgae'" in error.message
        assert "did you mean 'image'?" in error.remedy
        tokens = contract(image=("int64", ("N", 3, 4, 4)))
        assert "has type float32, the model takes int64" in self.message(folder, tokens).message

    def test_ignored_entries_are_a_warning(self, folder: Path, model: IOContract) -> None:
        (folder / "notes.txt").touch()
        dataset = open_dataset(DataSettings(source=str(folder), image=ImageSettings(mean=(0, 0, 0))), model)
        assert dataset.warnings == ("1 entries that are not PNG, JPEG, BMP, WEBP, GIF files were ignored",)

    def test_pixels_that_nothing_normalizes_are_a_warning_until_the_recipe_says_so(
        self, folder: Path, model: IOContract
    ) -> None:
        for unsaid in (None, ImageSettings(resize=4)):
            (warning,) = open_dataset(DataSettings(source=str(folder), image=unsaid), model).warnings
            assert "neither mean nor std" in warning
        for said in (ImageSettings(mean=(0, 0, 0)), ImageSettings(std=(1, 1, 1))):
            assert open_dataset(DataSettings(source=str(folder), image=said), model).warnings == ()
