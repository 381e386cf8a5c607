from __future__ import annotations

import struct

import pytest

from trtpipe.backends.engine_file import check_rtx_plan, read_header
from trtpipe.errors import BuildError, InputError

BITS = {"sm75": 1, "sm80": 2, "sm86": 4, "sm89": 8, "sm120": 16, "sm121": 32}


def rtx_plan(mask: int, version=(1, 7, 1, 116), total=None, body=200) -> bytes:
    size = 64 + body if total is None else total
    return struct.pack("<4s4xQQ4B4sQQQQ", b"vtrt", 2, size, *version, b"vtrt", mask, 0, 0, 1234) + bytes(body)


def written(tmp_path, data: bytes):
    path = tmp_path / "e.plan"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("target", BITS)
def test_one_target_each(tmp_path, target):
    path = written(tmp_path, rtx_plan(BITS[target]))
    header = read_header(path)
    assert (header.flavor, header.version) == ("tensorrt-rtx", "1.7.1.116")
    assert header.targets == (target,)
    assert header.size_ok
    assert not header.and_later
    assert header.weight_bytes == 1234
    assert check_rtx_plan(path, (target,)) == ()


def test_a_portable_plan_says_so(tmp_path):
    header = read_header(written(tmp_path, rtx_plan(0x7E)))
    assert header.targets == ("sm80", "sm86", "sm89", "sm120", "sm121")
    assert header.and_later


def test_classic_plans_tell_their_version_only(tmp_path):
    header = read_header(written(tmp_path, b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(200)))
    assert (header.flavor, header.version) == ("tensorrt", "10.3.0.26")
    assert (header.targets, header.size_ok, header.weight_bytes) == (None, None, None)


@pytest.mark.parametrize("data", [b"", b"vtrt", b"\x08\x0aonnx" + bytes(100), rtx_plan(8)[:63]])
def test_anything_else_is_no_plan(tmp_path, data):
    with pytest.raises(InputError, match="no TensorRT engine"):
        read_header(written(tmp_path, data))


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_header(tmp_path / "none.plan")


@pytest.mark.parametrize("mask", [0, 8 | 16, 4, 8 | 64])
def test_a_plan_for_other_targets_is_refused(tmp_path, mask):
    with pytest.raises(BuildError, match="asked for sm89 was built for"):
        check_rtx_plan(written(tmp_path, rtx_plan(mask)), ("sm89",))


def test_every_truncation_is_found(tmp_path):
    whole = rtx_plan(8, body=40)
    for length in range(len(whole)):
        with pytest.raises(BuildError, match=r"truncated|no valid plan"):
            check_rtx_plan(written(tmp_path, whole[:length]), ("sm89",))


def test_a_newer_header_is_not_judged(tmp_path):
    [warning] = check_rtx_plan(written(tmp_path, rtx_plan(0, version=(1, 8, 0, 1))), ("sm89",))
    assert "1.8.0.1 is newer" in warning
