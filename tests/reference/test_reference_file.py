"""The file that holds feeds and outputs, written by somebody else."""

from __future__ import annotations

import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest

from trtpipe.delivery.finish.build import read_reference
from trtpipe.delivery.finish.common import Failed
from trtpipe.errors import InputError
from trtpipe.reference.pytorch_outputs import load_reference, save_reference

if TYPE_CHECKING:
    from pathlib import Path


def member(shape: str, data: bytes = b"", descr: str = "'<f4'", version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + data


def written(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    feeds = [{"a/b": np.arange(6, dtype=np.int64).reshape(2, 3)}, {"a/b": np.zeros((0, 3), np.int64)}]
    outputs = [{"y": np.float16(np.arange(4).reshape(2, 2)).T}, {"y": np.array(1.5, ml_dtypes.bfloat16)}]
    save_reference(tmp_path / "r.npz", feeds, outputs)
    for found, wanted in zip(load_reference(tmp_path / "r.npz"), (feeds, outputs), strict=True):
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine.keys() == theirs.keys()
            for name, value in theirs.items():
                assert mine[name].dtype == value.dtype
                np.testing.assert_array_equal(mine[name], value)


@pytest.mark.parametrize(
    "members",
    [
        {"0/in/x.npy": member("(1099511627776,)")},
        {"0/in/x.npy": member("(-4,)", bytes(16))},
        {"0/in/x.npy": member("(4,)", bytes(12))},
        {"0/in/x.npy": member("(4,)", bytes(20))},
        {"0/in/x.npy": member("(2,)", bytes(16), "'|O'")},
        {"0/in/x.npy": member("(4,)", bytes(16), version=b"\x09\x00")},
        {"0/in/x.npy": b"text"},
        {"0/in/x.npy": b""},
        {"1000000000/in/x.npy": member("()", bytes(4))},
        {"-1/in/x.npy": member("()", bytes(4))},
        {"x/in/x.npy": member("()", bytes(4))},
        {"1/in/x.npy": member("()", bytes(4))},
        {"0/side/x.npy": member("()", bytes(4))},
        {"x.npy": member("()", bytes(4))},
    ],
)
def test_what_is_none_is_refused_and_nothing_large_is_made(tmp_path: Path, members: dict[str, bytes]) -> None:
    assert_refused(written(tmp_path / "r.npz", members), "not a file of reference")


@pytest.mark.parametrize("content", [member("(8388608,)", bytes(32 << 20)), b"short"])
def test_what_is_compressed_is_not_unpacked(tmp_path: Path, content: bytes) -> None:
    assert_refused(written(tmp_path / "r.npz", {"0/in/x.npy": content}, zipfile.ZIP_DEFLATED), "compressed")


def test_what_is_encrypted_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r.npz", {"0/in/x.npy": member("()", bytes(4))})
    data = bytearray(path.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + flags] |= 1
    path.write_bytes(data)
    assert_refused(path, "encrypted")


def test_a_type_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float99"):
        load_reference(written(tmp_path / "r.npz", {"0/in:float99/x.npy": member("()", bytes(4))}))


def assert_refused(path: Path, word: str) -> None:
    """By trtpipe and by ``finish.py``, and nothing large is made on the way."""
    tracemalloc.start()
    with pytest.raises(InputError, match=rf"r\.npz: .*{word}"):
        load_reference(path)
    with pytest.raises(Failed, match=rf"r\.npz: .*{word}") as caught:
        read_reference(path.parent, {"reference": {"file": path.name}})
    assert caught.value.code == 2
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20


def test_a_size_that_the_archive_does_not_have_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r.npz", {"0/in/x.npy": member("(1073741824,)")})
    data = path.read_bytes()
    size = len(member("(1073741824,)"))
    claimed = (size + (1 << 30)).to_bytes(4, "little") * 2
    path.write_bytes(data.replace(size.to_bytes(4, "little") * 2, claimed))
    assert path.read_bytes() != data
    with pytest.raises(InputError, match="cut short"):
        load_reference(path)
