from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.config.recipe import DataSettings, ImageSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.data.shards import shard_paths
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from conftest import MakeContract


def npy(value: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(value), allow_pickle=False)
    return stream.getvalue()


def png(value: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def shard(path: Path, numbers: range) -> Path:
    files: dict[str, bytes] = {}
    for n in numbers:
        files |= {f"d/{n:03}.npy": npy(np.full(3, n, np.float32)), f"d/{n:03}.cls": b"%d\n" % (n % 4)}
        files[f"d/{n:03}.json"] = b"{}"
    return pack(path, files)


def test_shards_are_one_stream(tmp_path: Path, contract: MakeContract) -> None:
    for index in range(3):
        shard(tmp_path / f"s-{index + 8:02}.tar", range(index * 5, index * 5 + 5))
    model = contract(x=("float32", ("N", 3)))
    datasets = [
        open_dataset(DataSettings(source=str(tmp_path / pattern), batch=4), model)
        for pattern in ("s-{08..10}.tar", "*.tar")
    ]
    for dataset in datasets:
        samples = list(dataset)
        assert (dataset.samples, [sample.rows for sample in samples]) == (15, [4, 4, 4, 3])
        np.testing.assert_array_equal(np.concatenate([s.feed["x"][:, 0] for s in samples]), np.arange(15))
        np.testing.assert_array_equal(np.concatenate([s.labels for s in samples]), np.arange(15) % 4)
    assert datasets[0].digests() == datasets[1].digests()
    assert datasets[0].preprocessing is None


def test_a_seeded_choice(tmp_path: Path, contract: MakeContract) -> None:
    source = str(shard(tmp_path / "s.tar", range(50)))
    model = contract(x=("float32", ("N", 3)))

    def taken(seed: int) -> list[float]:
        dataset = open_dataset(DataSettings(source=source, samples=9, seed=seed), model)
        return [float(sample.feed["x"][0, 0]) for sample in dataset]

    assert taken(1) == taken(1) == sorted(taken(1))
    assert taken(1) != taken(2)


def test_images_are_prepared(tmp_path: Path, contract: MakeContract) -> None:
    source = pack(tmp_path / "i.tar", {"a.png": png(51), "a.cls": b"2", "b.png": png(102), "b.txt": b"x"})
    data = DataSettings(source=str(source), image=ImageSettings(crop=(2, 2), mean=(0.1,) * 3, std=(0.5,) * 3))
    dataset = open_dataset(data, contract(x=("float32", ("N", 3, 2, 2))))
    first, second = (sample.feed["x"] for sample in dataset)
    np.testing.assert_allclose(first, (51 / 255 - 0.1) / 0.5, rtol=1e-6)
    np.testing.assert_allclose(second, (102 / 255 - 0.1) / 0.5, rtol=1e-6)
    assert dataset.preprocessing == data.image


def test_several_inputs_by_name(tmp_path: Path, contract: MakeContract) -> None:
    source = pack(
        tmp_path / "s.tar",
        {"1.ids.npy": npy(np.arange(4)), "1.Mask.npy": npy(np.ones(4, np.int64)), "1.other.npy": npy(0)},
    )
    dataset = open_dataset(
        DataSettings(source=str(source)), contract(ids=("int64", ("N", "S")), Mask=("int64", ("N", "S")))
    )
    (sample,) = dataset
    np.testing.assert_array_equal(sample.feed["ids"], [[0, 1, 2, 3]])
    np.testing.assert_array_equal(sample.feed["Mask"], [[1, 1, 1, 1]])


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    return found


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (member("a.npy", tarfile.SYMTYPE, "/etc/passwd"), "is not a regular file"),
        (member("a.npy", tarfile.LNKTYPE, "b.npy"), "is not a regular file"),
        (member("a.npy", tarfile.CHRTYPE), "is not a regular file"),
        (member("a.npy", tarfile.FIFOTYPE), "is not a regular file"),
        (member("../a.npy"), "a path outside the archive"),
        (member("d/../../a.npy"), "a path outside the archive"),
        (member("/etc/a.npy"), "a path outside the archive"),
    ],
)
def test_unsafe_members_are_refused(tmp_path: Path, contract: MakeContract, bad: tarfile.TarInfo, words: str) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.addfile(bad)
    with pytest.raises(InputError, match=words):
        open_dataset(DataSettings(source=str(tmp_path / "s.tar")), contract(x=("float32", ("N", 3))))


def test_damage_is_named(tmp_path: Path, contract: MakeContract) -> None:
    model = contract(x=("float32", ("N", 3)))
    whole = shard(tmp_path / "s.tar", range(5)).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:3000])
    (tmp_path / "noise.tar").write_bytes(b"x" * 2000)
    (tmp_path / "packed.tar").write_bytes(gzip.compress(whole))
    for name in ("cut", "noise", "packed"):
        with pytest.raises(InputError, match=rf"{name}\.tar"):
            list(open_dataset(DataSettings(source=str(tmp_path / f"{name}.tar")), model))


def test_samples_must_be_whole_and_fit(tmp_path: Path, contract: MakeContract) -> None:
    model = contract(x=("float32", ("N", 3)))
    good = npy(np.zeros(3, np.float32))
    for files, words in (
        ({"a.npy": good, "b.npy": good, "a.cls": b"1"}, "are not adjacent"),
        ({"a.npy": good, "a.cls": b"cat"}, "the class is 'cat'"),
        ({"a.cls": b"1"}, r"sample 'a': no array for input 'x'"),
        ({"a.npy": npy(np.zeros(4, np.float32))}, r"sample 'a': input 'x' has shape \[1, 4\]"),
        ({"a.npy": good[:-1]}, "cannot be read"),
        ({"a.npy": b"\x93NUMPY junk"}, "cannot be read"),
        ({}, "there are no samples"),
    ):
        pack(tmp_path / "s.tar", files)
        with pytest.raises(InputError, match=words):
            list(open_dataset(DataSettings(source=str(tmp_path / "s.tar")), model))


def test_patterns(tmp_path: Path) -> None:
    for name in ("a-1.tar", "a-2.tar", "a-3.tar"):
        (tmp_path / name).touch()
    assert [path.name for path in shard_paths(str(tmp_path / "a-{1..3}.tar"))] == ["a-1.tar", "a-2.tar", "a-3.tar"]
    assert [path.name for path in shard_paths(str(tmp_path / "a-2.tar"))] == ["a-2.tar"]
    assert shard_paths(str(tmp_path / "b-{1..3}.tar")) == ()
    with pytest.raises(InputError, match=r"a-4\.tar is missing"):
        shard_paths(str(tmp_path / "a-{1..4}.tar"))


class TestGzip:
    """Compressed shards, read as a stream."""

    @pytest.mark.parametrize("suffix", [".tar.gz", ".tgz"])
    def test_gives_what_the_plain_one_gives(self, tmp_path: Path, contract: MakeContract, suffix: str) -> None:
        plain = shard(tmp_path / "s.tar", range(12))
        packed = tmp_path / f"s{suffix}"
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        datasets = [
            open_dataset(DataSettings(source=str(path), samples=7, seed=3), contract(x=("float32", ("N", 3))))
            for path in (plain, packed)
        ]
        assert datasets[0].digests() == datasets[1].digests()
        for one, other in zip(*datasets, strict=True):
            np.testing.assert_array_equal(one.feed["x"], other.feed["x"])

    def test_one_cut_short_is_refused(self, tmp_path: Path, contract: MakeContract) -> None:
        whole = gzip.compress(shard(tmp_path / "s.tar", range(12)).read_bytes())
        (tmp_path / "c.tar.gz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=r"c\.tar\.gz: cannot be read"):
            list(open_dataset(DataSettings(source=str(tmp_path / "c.tar.gz")), contract(x=("float32", ("N", 3)))))

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
    def test_a_small_file_cannot_ask_for_much_memory(self, tmp_path: Path, contract: MakeContract, kind: bytes) -> None:
        member = tarfile.TarInfo("a.npy")
        member.type, member.size = kind, 2 << 30
        packed = tmp_path / "bomb.tar.gz"
        with gzip.open(packed, "wb", compresslevel=1) as stream:
            stream.write(member.tobuf(tarfile.GNU_FORMAT))
            for _ in range(40):
                stream.write(bytes(1 << 20))
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="bomb"):
                open_dataset(DataSettings(source=str(packed)), contract(x=("float32", ("N", 3))))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 10 << 20
