from __future__ import annotations

import json
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from trtpipe.config.authenticity import Mac
from trtpipe.config.settings import user_key
from trtpipe.digest import sha256_bytes
from trtpipe.errors import StoreCorrupt
from trtpipe.store import entry as entries
from trtpipe.store.entry import MEMO, RECORD, NotAuthentic, is_entry_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trtpipe.store import ArtifactStore, Key

OURS = user_key()
CONTENT = {"sm89.plan": bytes(range(150)), "sm89.plan.json": b'{"layers": 3}', "empty": b""}


def seal(content: Any) -> bytes:
    return entries.seal(content, OURS)


def unseal(data: bytes) -> Any:
    return entries.unseal(data, OURS)


def check_entry(folder: Path, *, content: bool = True) -> entries.Entry:
    return entries.check_entry(folder, OURS, content=content)


@pytest.fixture
def folder(store: ArtifactStore, key: Key, build: Any) -> Path:
    found: Path = build(store, key, CONTENT).folder
    for path in found.iterdir():
        path.chmod(0o644)
    return found


def test_a_sound_entry_is_read_as_it_was_written(folder: Path, key: Key) -> None:
    entry = check_entry(folder)
    assert (entry.key, entry.digest, entry.kind, entry.target) == (key, key.digest, "engine", "sm89")
    assert [(file.name, file.size) for file in entry.files] == [(name, len(data)) for name, data in CONTENT.items()]
    assert entry.seconds == 1.5


@pytest.mark.parametrize("name", [RECORD, "sm89.plan", "sm89.plan.json"])
def test_every_flipped_bit_is_detected(folder: Path, name: str) -> None:
    path = folder / name
    good = path.read_bytes()
    handle = os.open(path, os.O_WRONLY)
    undetected = []
    for bit in range(8 * len(good)):
        os.pwrite(handle, bytes([good[bit // 8] ^ 1 << bit % 8]), bit // 8)
        try:
            check_entry(folder)
            undetected.append(bit)
        except StoreCorrupt:
            os.pwrite(handle, good[bit // 8 : bit // 8 + 1], bit // 8)
    os.close(handle)
    assert undetected == []
    check_entry(folder)


@pytest.mark.parametrize("name", [RECORD, "sm89.plan", "sm89.plan.json"])
def test_every_truncation_is_detected(folder: Path, name: str) -> None:
    path = folder / name
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(StoreCorrupt, match=str(path)):
            check_entry(folder)
    for tail in (b"\0", b"\n", b" ", b"{}", good):
        path.write_bytes(good + tail)
        with pytest.raises(StoreCorrupt):
            check_entry(folder)


def replace_by_link(folder: Path) -> None:
    shutil.move(folder / "sm89.plan", folder.parent / "moved")
    (folder / "sm89.plan").symlink_to(folder.parent / "moved")


def replace_by_pipe(folder: Path) -> None:
    (folder / "sm89.plan").unlink()
    os.mkfifo(folder / "sm89.plan")


def replace_folder_by_link(folder: Path) -> None:
    folder.rename(folder.parent / "moved")
    folder.symlink_to(folder.parent / "moved")


def replace_folder_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def swap_files(folder: Path) -> None:
    one, other = folder / "sm89.plan", folder / "sm89.plan.json"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def reformat_record(folder: Path) -> None:
    (folder / RECORD).write_text(json.dumps(json.loads((folder / RECORD).read_text()), indent=1))


def name_a_file_outside(folder: Path) -> None:
    record = unseal((folder / RECORD).read_bytes())
    record["files"][0]["name"] = "../sm89.plan"
    (folder / RECORD).write_bytes(seal(record))


def leave_out_a_field(folder: Path) -> None:
    record = unseal((folder / RECORD).read_bytes())
    del record["files"]
    (folder / RECORD).write_bytes(seal(record))


def change_the_key(folder: Path) -> None:
    record = unseal((folder / RECORD).read_bytes())
    record["key"]["settings"]["workspace"] = 1
    (folder / RECORD).write_bytes(seal(record))


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (replace_by_link, "sm89.plan"),
        (replace_by_pipe, "not a plain file"),
        (replace_folder_by_link, "not a folder"),
        (replace_folder_by_file, "not a folder"),
        (shutil.rmtree, "No such file"),
        (empty, "record.json"),
        (lambda folder: (folder / "empty").unlink(), "empty is missing"),
        (lambda folder: (folder / RECORD).unlink(), "record.json"),
        (lambda folder: (folder / "extra\x1b[31m").write_bytes(b""), r"extra\\x1b\[31m"),
        (lambda folder: (folder / "subfolder").mkdir(), "subfolder"),
        (swap_files, "bytes"),
        (reformat_record, "not the record"),
        (name_a_file_outside, "outside"),
        (leave_out_a_field, "not the record"),
        (change_the_key, "another key"),
        (lambda folder: (folder / RECORD).write_bytes(b"[" * 100_000), "not the record"),
        (lambda folder: (folder / RECORD).write_bytes(b"\xff\xfe"), "not the record"),
    ],
)
def test_any_other_harm_is_detected(folder: Path, harm: Callable[[Path], object], complaint: str) -> None:
    harm(folder)
    with pytest.raises(StoreCorrupt, match=complaint) as caught:
        check_entry(folder)
    assert "build again" in caught.value.remedy


def test_an_entry_in_the_place_of_another_is_detected(folder: Path, store: ArtifactStore, key: Key, build: Any) -> None:
    other = build(store, key.model_copy(update={"target": "sm90"})).folder
    shutil.rmtree(other)
    shutil.copytree(folder, other)
    with pytest.raises(StoreCorrupt, match="another key"):
        check_entry(other)


def test_without_content_only_names_and_sizes_count(folder: Path) -> None:
    (folder / "sm89.plan").write_bytes(b"x" * 150)
    check_entry(folder, content=False)
    (folder / "sm89.plan").write_bytes(b"x" * 149)
    with pytest.raises(StoreCorrupt, match="149 bytes, 150"):
        check_entry(folder, content=False)


@pytest.mark.parametrize(
    "data", [b"", b"null", b"{}", b"3", b'{"content": 1}', b'{"content": NaN, "sha256": ""}', b"[1]"]
)
def test_unseal_refuses_what_was_never_sealed(data: bytes) -> None:
    with pytest.raises(ValueError):
        unseal(data)


def test_unseal_gives_back_what_was_sealed() -> None:
    content = {"é": [1, 2.5, None, True, {"": "\n"}]}
    assert unseal(seal(content)) == content


@pytest.mark.parametrize(
    "forged",
    [
        entries.seal,
        lambda content: entries.seal(content, Mac(bytes(32))),
        lambda content: entries.seal(content, OURS, MEMO),
        lambda content: entries.seal({**content, "files": []}, OURS).replace(b'"files":[]', b'"files":[1]'),
    ],
)
def test_what_another_sealed_is_not_authentic(forged: Callable[[Any], bytes]) -> None:
    with pytest.raises((NotAuthentic, ValueError)):
        unseal(forged({"digest": "0" * 64}))


def test_a_resealed_entry_is_refused(folder: Path) -> None:
    """Plan and record exchanged, digests made to fit, as anyone can who may write the folder."""
    record = json.loads((folder / RECORD).read_text())["content"]
    (folder / "sm89.plan").write_bytes(b"EVILPLAN")
    record["files"][0].update(sha256=sha256_bytes(b"EVILPLAN"), size=8)
    for forged in (entries.seal(record), entries.seal(record, Mac(b"x" * 32))):
        (folder / RECORD).write_bytes(forged)
        with pytest.raises(NotAuthentic):
            check_entry(folder)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("sm89.plan", True),
        ("weights 1.data", True),
        (".hidden", True),
        (RECORD, False),
        ("", False),
        (".", False),
        ("..", False),
        ("a/b", False),
        ("/a", False),
        ("a/", False),
        ("a\0", False),
    ],
)
def test_names_of_files(name: str, good: bool) -> None:
    assert is_entry_name(name) is good


@pytest.mark.slow
def test_a_thousand_flipped_bits_of_a_large_entry(store: ArtifactStore, key: Key, build: Any) -> None:
    chance = random.Random(0)
    artifact = build(store, key, {"sm89.plan": chance.randbytes(50 << 20)})
    artifact.path.chmod(0o600)
    with artifact.path.open("r+b", buffering=0) as stream:
        for _ in range(1000):
            at, bit = chance.randrange(50 << 20), 1 << chance.randrange(8)
            good = os.pread(stream.fileno(), 1, at)
            os.pwrite(stream.fileno(), bytes([good[0] ^ bit]), at)
            with pytest.raises(StoreCorrupt, match="content changed"):
                check_entry(artifact.folder)
            os.pwrite(stream.fileno(), good, at)
    check_entry(artifact.folder)
