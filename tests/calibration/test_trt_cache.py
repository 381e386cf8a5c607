from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.calibration.trt_cache import apply_trt_cache, read_trt_cache
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

# As TensorRT's samples have it: 3c010a14 is the big-endian float32 0.00787594...
CACHE = (
    "TRT-8503-EntropyCalibration2\ndata: 3c010a14\nconv1/weights:0: 3f800000\n(Unnamed Layer* 3) [Constant]: 00000000\n"
)


@pytest.fixture
def cache(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "calibration.cache"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_names_with_colons_and_blanks_and_big_endian_scales(cache: Callable[[str], Path]) -> None:
    found = read_trt_cache(cache(CACHE))
    assert found.method == "entropy"
    assert found.scales == {
        "data": struct.unpack(">f", b"\x3c\x01\x0a\x14")[0],
        "conv1/weights:0": 1.0,
        "(Unnamed Layer* 3) [Constant]": 0.0,
    }
    assert read_trt_cache(cache(CACHE.replace("\n", "\r\n"))) == found


def test_min_max(cache: Callable[[str], Path]) -> None:
    assert read_trt_cache(cache("TRT-100300-MinMaxCalibration\nx: 3f000000\n")).method == "max"


def test_ranges_and_report(cache: Callable[[str], Path]) -> None:
    result = apply_trt_cache(read_trt_cache(cache(CACHE)), ["data", "new", "conv1/weights:0"])
    assert result.matched == ("data", "conv1/weights:0")
    assert result.missing == ("new",)
    assert result.unused == ("(Unnamed Layer* 3) [Constant]",)
    assert result.ranges.tensors["conv1/weights:0"].amax == 127
    assert result.ranges.tensors["data"].amax == float(np.float32(127 * (1 + 0x010A14 / 2**23) / 2**7))
    assert {found.method for found in result.ranges.tensors.values()} == {"entropy"}


def test_a_cache_of_another_model_is_refused(cache: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="none of the model's 1 tensors is in the cache, which has 3"):
        apply_trt_cache(read_trt_cache(cache(CACHE)), ["x"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: not the header"),
        ("data: 3c010a14\n", "line 1: not the header"),
        ("TRT-8503-LegacyCalibration\n", "line 1: calibrator 'LegacyCalibration' is not supported"),
        ("TRT-8503-EntropyCalibration2\na: 3c010a14\nb 3c010a14\n", "line 3: not '<tensor>: <8 hex digits>'"),
        ("TRT-8503-EntropyCalibration2\na: 3c010a1\n", "line 2: not '<tensor>"),
        ("TRT-8503-EntropyCalibration2\na: 3c010a1g\n", "line 2: not '<tensor>"),
        ("TRT-8503-EntropyCalibration2\na: 3c010a14\n\na: 3c010a14\n", "line 4: tensor 'a' a second time"),
        ("TRT-8503-EntropyCalibration2\na: 7f800000\n", "line 2: tensor 'a' has scale inf"),
        ("TRT-8503-EntropyCalibration2\na: 7fc00000\n", "line 2: tensor 'a' has scale nan"),
        ("TRT-8503-EntropyCalibration2\na: bf800000\n", "line 2: tensor 'a' has scale -1"),
        ("TRT-8503-EntropyCalibration2\na: 7f7fffff\n", "line 2: tensor 'a' has scale 3.4"),
        (b"\xff\xfe\x00binary", "not a text file"),
    ],
)
def test_malformed_files(cache: Callable[[str | bytes], Path], content: str | bytes, words: str) -> None:
    with pytest.raises(InputError, match=f"calibration.cache: {words}" if "line" in words else words):
        read_trt_cache(cache(content))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_trt_cache(tmp_path / "none.cache")


def test_a_device_is_no_calibration_cache():
    with pytest.raises(InputError, match="not a plain file"):
        read_trt_cache(Path("/dev/zero"))
