from __future__ import annotations

import io
import os
import random
import tarfile
from typing import TYPE_CHECKING

import pytest
from packages import FILES, digest, record, written

from trtpipe.delivery.assembly import Assembly
from trtpipe.delivery.reader import Package
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(params=["folder", "tar"])
def package(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "pkg"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "model.json").write_text(record().to_file())
    if request.param == "folder":
        return folder
    assembly = Assembly(record(), {path.name: path for path in folder.iterdir()})
    assembly.write_tar(tmp_path / "pkg.tar")
    return tmp_path / "pkg.tar"


def edit(package: Path, name: str, content: bytes | None) -> None:
    """Give a file other content, or take it away."""
    if package.is_dir():
        (package / name).unlink(missing_ok=True)
        if content is not None:
            (package / name).write_bytes(content)
        return
    with tarfile.open(package) as archive:
        held = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    held.pop(name, None)
    with tarfile.open(package, "w") as archive:
        for each, data in ({**held, name: content} if content is not None else held).items():
            member = tarfile.TarInfo(each)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_gives_the_content_of_every_file(package: Path, tmp_path: Path) -> None:
    found = Package.opened(package)
    found.verify()
    assert {name: found.read(name) for name in FILES} == FILES
    (tmp_path / "copy").mkdir()
    found.copy(["lowered.onnx", "sm89.plan"], tmp_path / "copy")
    assert (tmp_path / "copy" / "lowered.onnx").read_bytes() == b"graph"


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_never_handed_out(package: Path, name: str, tmp_path: Path) -> None:
    edit(package, name, FILES[name][::-1])
    found = Package.opened(package)
    (tmp_path / "copy").mkdir()
    for use in (found.read, lambda name: found.copy([name], tmp_path / "copy"), lambda _: found.verify()):
        with pytest.raises(InputError, match=f"{name}: changed since the package was made"):
            use(name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(package: Path, name: str) -> None:
    edit(package, name, None)
    with pytest.raises(InputError, match=f"{name} is missing: the package is cut short"):
        Package.opened(package)


@pytest.mark.parametrize(("length", "word"), [(2, "cut short"), (9, "too long")])
def test_a_file_of_another_length_is_named(package: Path, length: int, word: str) -> None:
    edit(package, "sm89.plan", b"x" * length)
    with pytest.raises(InputError, match=rf"sm89\.plan: {word}"):
        Package.opened(package)


def test_an_added_file_is_refused_by_verification(package: Path) -> None:
    edit(package, "extra.bin", b"x")
    with pytest.raises(InputError, match=r"extra\.bin: not listed"):
        Package.opened(package).verify()


class TestTheListOfWrittenFiles:
    """``.trtpipe.json``, which nobody signs."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        assembly = Assembly(record(), {name: tmp_path / name for name in FILES})
        for name, content in FILES.items():
            (tmp_path / name).write_bytes(content)
        assembly.sealed(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("names", [[], ["model.json"], ["lowered.onnx", "model.json", "reference.npz"]])
    def test_may_name_files_of_the_package(self, folder: Path, names: list[str]) -> None:
        (folder / ".trtpipe.json").write_bytes(written(folder, names))
        Package.opened(folder).verify()

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: b"",
            lambda data: b"\xff",
            lambda data: b"[]",
            lambda data: b"{}",
            lambda data: data + b" ",
            lambda data: data.replace(b'"leaving":[]', b'"leaving":["x"]'),
            lambda data: data.replace(b'"size":', b'"size": '),
            lambda data: data.replace(b"sm89.plan", b"sm90.plan"),
            lambda data: data.replace(b"0" * 64, b"payload"),
            lambda data: data.replace(b'"proof"', b'"more":1,"proof"'),
            lambda data: b"[" * 100_000,
        ],
    )
    def test_may_hold_nothing_else(self, folder: Path, change: Callable[[bytes], bytes]) -> None:
        data = written(folder, ["model.json", "sm89.plan"])
        (folder / ".trtpipe.json").write_bytes(change(data))
        with pytest.raises(InputError, match=r"\.trtpipe\.json: not the list") as caught:
            Package.opened(folder).verify()
        assert "remove it" in caught.value.remedy

    def test_may_name_a_signature_that_was_replaced(self, folder: Path) -> None:
        (folder / "model.sig").write_bytes(b"a")
        (folder / ".trtpipe.json").write_bytes(written(folder, ["model.json", "model.sig"]))
        (folder / "model.sig").write_bytes(b"another")
        Package.opened(folder).verify()
        for change in ((digest(b"a").encode(), b"payload"), (b'"size":1}', b'"size":"payload"}')):
            (folder / "model.sig").write_bytes(b"a")
            data = written(folder, ["model.json", "model.sig"])
            assert change[0] in data
            (folder / ".trtpipe.json").write_bytes(data.replace(*change))
            with pytest.raises(InputError, match=r"\.trtpipe\.json"):
                Package.opened(folder).verify()

    def test_of_other_content_is_refused(self, folder: Path) -> None:
        data = written(folder, ["model.json", "sm89.plan"])
        (folder / ".trtpipe.json").write_bytes(data.replace(digest(FILES["sm89.plan"]).encode(), b"1" * 64))
        with pytest.raises(InputError, match=r"\.trtpipe\.json"):
            Package.opened(folder).verify()


def test_no_package(package: Path, tmp_path: Path) -> None:
    edit(package, "model.json", None)
    with pytest.raises(InputError, match=r"no model\.json"):
        Package.opened(package)
    with pytest.raises(InputError, match="no package"):
        Package.opened(tmp_path / "nothing")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_an_archive_cut_short_is_refused(package: Path, share: float) -> None:
    if package.is_dir():
        pytest.skip("a folder is cut short file by file")
    size = sum(len(content) for content in FILES.values()) + len(record().to_file()) + 4 * 512
    os.truncate(package, int(size * share))
    with pytest.raises(InputError, match=r"pkg\.tar"):
        Package.opened(package).verify()


def test_links_and_folders_are_refused(package: Path) -> None:
    if package.is_dir():
        (package / "sm89.plan").rename(package.parent / "elsewhere")
        (package / "sm89.plan").symlink_to(package.parent / "elsewhere")
    else:
        with tarfile.open(package, "a") as archive:
            member = tarfile.TarInfo("link")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(InputError, match="not a plain file"):
        Package.opened(package)


def test_a_member_that_is_there_twice_is_refused(package: Path) -> None:
    if package.is_dir():
        pytest.skip("a folder has each name once")
    with tarfile.open(package, "a") as archive:
        member = tarfile.TarInfo("sm89.plan")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(InputError, match="twice"):
        Package.opened(package)


def test_equal_packages_are_equal_archives(tmp_path: Path) -> None:
    for round_, order in enumerate((FILES, reversed(FILES))):
        folder = tmp_path / str(round_)
        folder.mkdir()
        names = list(order)
        for name in names:
            (folder / name).write_bytes(FILES[name])
            os.utime(folder / name, (round_ * 1000, round_ * 1000))
        Assembly(record(), {name: folder / name for name in names}).sealed(folder).write_tar(tmp_path / f"{round_}.tar")
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()


def test_of_any_flipped_bit_nothing_reaches_the_reader(package: Path) -> None:
    """What is handed out is what was packaged, or nothing is, and every error is one for the user."""
    generator = random.Random(0)
    paths = sorted(package.iterdir()) if package.is_dir() else [package]
    refused = 0
    for _ in range(300):
        path = generator.choice(paths)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[generator.randrange(len(bad))] ^= 1 << generator.randrange(8)
        path.write_bytes(bad)
        for name, content in FILES.items():
            try:
                assert Package.opened(package).read(name) == content
            except InputError:
                refused += 1
        path.write_bytes(good)
    assert refused > 100
