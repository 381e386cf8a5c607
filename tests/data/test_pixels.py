from __future__ import annotations

import struct
import sys
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trtpipe.config.recipe import ImageSettings
from trtpipe.config.requirements import install
from trtpipe.data.pixels import MAX_PIXELS, load_tensor, require_pillow
from trtpipe.errors import HostError, InputError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Picture = Callable[..., Path]


def load(path: Path, raw: bool = True, **settings: Any) -> np.ndarray:
    return load_tensor(path, ImageSettings(**settings), raw)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


class TestLayout:
    def test_chw_and_hwc_rgb_and_bgr(self, tmp_path: Path, picture: Picture) -> None:
        path = picture(tmp_path / "a.png", 6, 8)
        chw = load(path)
        assert (chw.shape, chw.dtype, chw.flags.c_contiguous) == ((3, 6, 8), np.uint8, True)
        assert chw[:, 4, 5].tolist() == [4, 5, 27]
        assert load(path, layout="HWC")[4, 5].tolist() == [4, 5, 27]
        assert load(path, channels="BGR")[:, 4, 5].tolist() == [27, 5, 4]
        assert load(path, layout="HWC", channels="L").shape == (6, 8, 1)

    def test_values_are_scaled_then_normalized_in_the_order_of_the_channels(
        self, tmp_path: Path, picture: Picture
    ) -> None:
        path = picture(tmp_path / "a.png")
        tensor = load(path, raw=False, channels="BGR", mean=(0.5, 0.25, 0.0), std=(0.5, 2.0, 4.0))
        assert tensor.dtype == np.float32
        expected = [(27 / 255 - 0.5) / 0.5, (5 / 255 - 0.25) / 2.0, (4 / 255) / 4.0]
        np.testing.assert_allclose(tensor[:, 4, 5], expected, rtol=1e-6)

    def test_float_without_settings_is_the_unit_scale(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.png", Image.new("RGB", (2, 2), (0, 51, 255)))
        assert load(path, raw=False)[:, 0, 0].tolist() == [0.0, np.float32(0.2), 1.0]


class TestModes:
    @pytest.mark.parametrize(
        "color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (12, 200, 99), (255, 255, 255), (1, 2, 3)]
    )
    def test_luma_is_bt601(self, tmp_path: Path, color: tuple[int, int, int]) -> None:
        path = saved(tmp_path / "a.png", Image.new("RGB", (3, 2), color))
        red, green, blue = color
        value = int(load(path, channels="L")[0, 0, 0])
        assert abs(value - (0.299 * red + 0.587 * green + 0.114 * blue)) <= 0.501

    def test_grey_fills_all_channels(self, tmp_path: Path) -> None:
        for mode in ("L", "LA"):
            path = saved(tmp_path / f"{mode}.png", Image.new("L", (2, 2), 77).convert(mode))
            assert load(path)[:, 1, 1].tolist() == [77, 77, 77]
        assert load(saved(tmp_path / "1.png", Image.new("1", (2, 2), 1)))[:, 0, 0].tolist() == [255] * 3

    def test_alpha_is_dropped(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.png", Image.new("RGBA", (2, 2), (10, 20, 30, 0)))
        assert load(path)[:, 0, 0].tolist() == [10, 20, 30]

    @pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128])])
    def test_palette(self, tmp_path: Path, transparency: int | bytes | None) -> None:
        image = Image.new("P", (2, 2), 1)
        image.putpalette([9, 9, 9, 40, 50, 60])
        options = {} if transparency is None else {"transparency": transparency}
        assert load(saved(tmp_path / "a.png", image, **options))[:, 0, 0].tolist() == [40, 50, 60]

    def test_cmyk(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=100)
        np.testing.assert_allclose(load(path)[:, 8, 8].astype(int), [0, 255, 255], atol=3)

    def test_sixteen_bit_grey_keeps_the_high_byte(self, tmp_path: Path) -> None:
        values = np.array([[0, 255, 256], [0x1234, 0x8000, 0xFFFF]], np.uint16)
        path = saved(tmp_path / "a.png", Image.fromarray(values))
        assert load(path, channels="L")[0].tolist() == [[0, 0, 1], [0x12, 0x80, 0xFF]]

    def test_exif_orientation_is_not_applied(self, tmp_path: Path, picture: Picture) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # "rotate by 90 degrees"
        with Image.open(picture(tmp_path / "a.png", 6, 8)) as image:
            path = saved(tmp_path / "turned.jpg", image, exif=exif)
        assert load(path).shape == (3, 6, 8)

    @pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.gif", "a.jpg"])
    def test_every_format_is_read(self, tmp_path: Path, name: str) -> None:
        options = {"lossless": True} if name == "a.webp" else {}
        path = saved(tmp_path / name, Image.new("RGB", (16, 16), (60, 120, 180)), **options)
        np.testing.assert_allclose(load(path)[:, 3, 3].astype(int), [60, 120, 180], atol=2)


class TestGeometry:
    @pytest.mark.parametrize(
        ("size", "crop", "corner"),
        [((6, 8), (2, 4), (2, 2)), ((6, 8), (6, 8), (0, 0)), ((7, 8), (4, 5), (2, 2)), ((9, 9), (4, 8), (2, 0))],
    )
    def test_crop_is_the_centre(
        self, tmp_path: Path, picture: Picture, size: Any, crop: Any, corner: tuple[int, int]
    ) -> None:
        tensor = load(picture(tmp_path / "a.png", *size), crop=crop)
        assert tensor.shape == (3, *crop)
        assert tensor[:2, 0, 0].tolist() == list(corner)

    @pytest.mark.parametrize(
        ("size", "resize", "expected"),
        [((30, 40), 15, (15, 20)), ((40, 30), 15, (20, 15)), ((7, 10), 3, (3, 4)), ((30, 40), (8, 9), (8, 9))],
    )
    def test_resize(self, tmp_path: Path, picture: Picture, size: Any, resize: Any, expected: Any) -> None:
        assert load(picture(tmp_path / "a.png", *size), resize=resize).shape == (3, *expected)

    def test_interpolation(self, tmp_path: Path) -> None:
        image = Image.fromarray(np.array([[0, 0, 200, 200]] * 2, np.uint8))
        path = saved(tmp_path / "a.png", image)
        rows = {
            mode: load(path, resize=(1, 3), channels="L", interpolation=mode)[0, 0] for mode in ("nearest", "bilinear")
        }
        assert set(rows["nearest"].tolist()) == {0, 200}
        assert rows["bilinear"][1] == 100  # by symmetry
        assert rows["bilinear"][0] + rows["bilinear"][2] == 200

    def test_letterbox_keeps_the_aspect_in_the_middle(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "wide.png", Image.new("RGB", (40, 20), (10, 20, 30)))
        found = load(path, letterbox=(16, 16), fill=7)
        assert found.shape == (3, 16, 16)
        assert (found[:, 4:12] == np.array([10, 20, 30])[:, None, None]).all()
        assert (found[:, :4] == 7).all()
        assert (found[:, 12:] == 7).all()

    def test_pad_fills_up_on_the_right_and_at_the_bottom(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "small.png", Image.new("L", (3, 2), 200))
        found = load(path, channels="L", pad=(4, 5))[0]
        assert found.tolist() == [[200, 200, 200, 114, 114]] * 2 + [[114] * 5] * 2
        with pytest.raises(InputError, match=r"small\.png: 2x3 pixels .* do not fit into pad = 1x5"):
            load(path, channels="L", pad=(1, 5))

    @pytest.mark.parametrize("more", [{"resize": 8}, {"crop": (4, 4)}, {"pad": (9, 9)}])
    def test_letterbox_stands_alone(self, more: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match="letterbox stands in place of"):
            ImageSettings(letterbox=(8, 8), **more)

    def test_too_small_for_the_crop(self, tmp_path: Path, picture: Picture) -> None:
        with pytest.raises(InputError, match=r"a\.png: 6x8 pixels .* before the crop to 7x8"):
            load(picture(tmp_path / "a.png", 6, 8), crop=(7, 8))


class TestHostileFiles:
    @pytest.mark.parametrize("size", [(60000, 60000), (20000, 6000), (8193, 8192)])
    def test_a_bomb_is_refused_from_its_header(self, tmp_path: Path, size: tuple[int, int]) -> None:
        assert size[0] * size[1] > MAX_PIXELS
        (tmp_path / "bomb.png").write_bytes(png_header(*size))
        with pytest.raises(InputError, match=r"bomb\.png: (too large|\d+x\d+ pixels)"):
            load(tmp_path / "bomb.png")

    def test_an_aspect_that_explodes_on_resizing_is_refused(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "line.png", Image.new("L", (20000, 1)))
        with pytest.raises(InputError, match=r"line\.png: 4480000x224 pixels"):
            load(path, resize=224)

    def test_a_truncated_jpeg_is_named(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        path = saved(tmp_path / "photo.jpg", Image.fromarray(noise))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(InputError, match=r"photo\.jpg: damaged"):
            load(path)

    @pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.gif", "a.jpg"])
    def test_any_truncation_and_any_flip_gives_an_image_or_an_input_error(self, tmp_path: Path, name: str) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8)
        whole = saved(tmp_path / name, Image.fromarray(noise)).read_bytes()
        broken = tmp_path / f"broken_{name}"
        refused: list[str] = []
        variants = [whole[:length] for length in range(len(whole))]
        variants += [whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(len(whole))]
        for data in variants:
            broken.write_bytes(data)
            try:
                assert load(broken).shape[0] == 3
            except InputError as error:
                refused.append(error.message)
        assert len(refused) > 20
        assert all(str(broken) in message for message in refused)

    def test_an_animation_is_refused(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (4, 4), (i * 80, 0, 0)) for i in range(3)]
        for name in ("a.gif", "a.png", "a.webp"):
            path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
            with pytest.raises(InputError, match=rf"{name}: an animated image"):
                load(path)

    def test_a_photo_with_a_second_picture_inside_is_a_photo(self, tmp_path: Path) -> None:
        first, second = Image.new("RGB", (16, 16), (50, 60, 70)), Image.new("RGB", (16, 16))
        path = saved(tmp_path / "a.mpo", first, save_all=True, append_images=[second]).rename(tmp_path / "a.jpg")
        np.testing.assert_allclose(load(path)[:, 8, 8].astype(int), [50, 60, 70], atol=2)

    def test_other_formats_are_refused_whatever_their_name(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (4, 4))
        ImageDraw.Draw(image).point((1, 1), (255, 0, 0))
        for format_name in ("TIFF", "PPM", "TGA", "PDF", "EPS", "ICO"):
            path = saved(tmp_path / f"{format_name}.png", image, format=format_name)
            with pytest.raises(InputError, match="damaged, or not a PNG, JPEG, BMP, WEBP, GIF image"):
                load(path)


def test_without_pillow_the_remedy_is_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "PIL" or name.startswith("PIL.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(HostError) as error:
        require_pillow()
    assert error.value.remedy == install("images")
