from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from trtpipe.data.npz import read_members
from trtpipe.errors import InputError

X = np.arange(60, dtype=np.float32).reshape(5, 3, 4)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def archive(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries:
            file.writestr(zipfile.ZipInfo(name), data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
class TestReading:
    def test_headers_come_without_values(self, tmp_path: Path, save: type) -> None:
        save(tmp_path / "a.npz", x=X, n=np.int64(3))
        members = read_members(tmp_path / "a.npz")
        assert {name: (m.shape, m.header.dtype.name) for name, m in members.items()} == {
            "x": ((5, 3, 4), "float32"),
            "n": ((), "int64"),
        }
        assert members["n"].load() == 3

    @pytest.mark.parametrize("indices", [(0, 1, 2, 3, 4), (1, 4), (3,), ()])
    def test_rows(self, tmp_path: Path, save: type, indices: tuple[int, ...]) -> None:
        save(tmp_path / "a.npz", x=X)
        found = list(read_members(tmp_path / "a.npz")["x"].rows(indices))
        assert len(found) == len(indices)
        for row, index in zip(found, indices, strict=True):
            np.testing.assert_array_equal(row, X[index])

    def test_an_array_stored_by_columns(self, tmp_path: Path, save: type) -> None:
        save(tmp_path / "a.npz", x=np.asfortranarray(X))
        member = read_members(tmp_path / "a.npz")["x"]
        assert member.header.fortran
        np.testing.assert_array_equal(np.stack(list(member.rows((0, 2)))), X[[0, 2]])
        np.testing.assert_array_equal(member.load(), X)


class TestDisk:
    """zipfile says "not a zip file" where the disk failed; we say what the disk said."""

    @pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux alone has a file that opens but fails")
    def test_an_error_while_reading_is_named(self) -> None:
        with pytest.raises(InputError, match=r"Invalid argument|Input/output error"):
            read_members(Path("/proc/self/mem"))


class TestDamage:
    def test_every_truncation_is_noticed(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "a.npz", x=X)
        whole = (tmp_path / "a.npz").read_bytes()
        broken = tmp_path / "broken.npz"
        for length in range(len(whole)):
            broken.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"broken\.npz"):
                read_members(broken)["x"].load()

    def test_flipped_bits_never_end_in_anything_but_an_answer_or_an_input_error(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=X)
        whole = (tmp_path / "a.npz").read_bytes()
        broken = tmp_path / "broken.npz"
        noticed = 0
        for position in range(len(whole)):
            broken.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
            try:
                for member in read_members(broken).values():
                    member.load()
            except InputError:
                noticed += 1
        assert noticed > len(X.tobytes())  # zip's own checksum covers the values

    def test_a_header_that_promises_more_than_there_is(self, tmp_path: Path) -> None:
        data = npy(X).replace(b"(5, 3, 4)", b"(5, 3, 9)")
        with pytest.raises(InputError, match="does not match its header"):
            read_members(archive(tmp_path / "a.npz", ("x.npy", data)))

    @pytest.mark.parametrize("count", [10**15, -5])
    def test_a_header_with_an_absurd_size_asks_for_no_memory(self, tmp_path: Path, count: int) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (count, 3)})
        with pytest.raises(InputError, match="does not match its header"):
            read_members(archive(tmp_path / "a.npz", ("x.npy", header.getvalue())))

    def test_objects_are_refused_and_not_unpickled(self, tmp_path: Path) -> None:
        marker = tmp_path / "executed"

        class Evil:
            def __reduce__(self) -> tuple[object, tuple[object, ...]]:
                return Path.touch, (marker,)

        path = archive(tmp_path / "a.npz", ("x.npy", npy(np.array([Evil()], dtype=object))))
        with pytest.raises(InputError, match="array 'x' holds Python objects"):
            read_members(path)
        assert not marker.exists()

    @pytest.mark.parametrize("array", [np.array(["a"]), np.zeros(2, "f4,i4"), np.zeros(2, "c8"), np.zeros(2, "M8[s]")])
    def test_other_than_numbers_are_refused(self, tmp_path: Path, array: np.ndarray) -> None:
        np.savez(tmp_path / "a.npz", x=array)
        with pytest.raises(InputError, match=r"array 'x' has type|format version"):
            read_members(tmp_path / "a.npz")

    def test_a_name_given_twice_is_refused(self, tmp_path: Path) -> None:
        path = archive(tmp_path / "a.npz", ("x.npy", npy(X)), ("x", npy(X)))
        with pytest.raises(InputError, match="holds array 'x' twice"):
            read_members(path)

    def test_something_that_is_no_array_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            read_members(archive(tmp_path / "a.npz", ("readme.txt", b"hello there")))


class TestBounds:
    """What a small file unpacks to is known before it is unpacked."""

    def test_an_array_that_unpacks_to_a_hundred_times_its_bytes(self, tmp_path):
        header = npy(np.zeros((0, 1 << 20), np.float32)).replace(b"(0, ", b"(99,")
        with (
            zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
            archive.open("x.npy", "w") as member,
        ):
            member.write(header)
            for _ in range(99):
                member.write(bytes(4 << 20))
        with pytest.raises(InputError, match="unpacks to 415 MB from") as caught:
            read_members(tmp_path / "x.npz")
        assert "numpy.savez" in caught.value.remedy

    def test_a_small_one_may_be_all_zeros(self, tmp_path):
        np.savez_compressed(tmp_path / "x.npz", x=np.zeros((100, 1000), np.float32))
        assert not read_members(tmp_path / "x.npz")["x"].load().any()

    def test_a_header_of_gigabytes_is_not_read(self, tmp_path):
        """The second version of the format gives the header's length in four bytes."""
        data = b"\x93NUMPY\x02\x00" + struct.pack("<I", 200 << 20) + b" " * (200 << 20)
        with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", data)
        del data
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="array 'x'"):
                read_members(tmp_path / "x.npz")
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()
