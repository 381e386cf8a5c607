"""Encrypted packages: every byte survives, and nobody else reads them."""

from __future__ import annotations

import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pyrage", reason="needs the extra trust: pyrage")

import pyrage
from packages import FILES, record
from trust import write

from trtpipe.delivery.assembly import Assembly
from trtpipe.delivery.encryption import Identities, encrypted, parse_recipients
from trtpipe.delivery.reader import Package
from trtpipe.delivery.record import Plan
from trtpipe.errors import InputError


def identity(folder: Path, name: str = "key.txt") -> tuple[Path, str]:
    """A file as age-keygen writes it, and its recipient."""
    made = pyrage.x25519.Identity.generate()
    public = str(made.to_public())
    return write(folder / name, f"# created: today\n# public key: {public}\n{made}\n".encode()), public


def package(folder: Path, *recipients: str, plan: bytes = b"plan") -> Path:
    """A package with everything in it encrypted."""
    parts = folder / "parts"
    parts.mkdir()
    for name, data in {**FILES, "sm89.plan": plan, "LICENSE": b"free"}.items():
        (parts / name).write_bytes(data)
    files = {name: parts / name for name in (*FILES, "LICENSE")}
    found = Assembly(record(files=(), licenses=("LICENSE",)), files)
    digest = found.listed().model.file("sm89.plan").sha256
    first = replace(found.model.plans[0], sha256=digest)
    assembly = Assembly(replace(found.model, plans=(first,)), files)
    made = folder / "made"
    made.mkdir()
    sealed = encrypted(assembly, parse_recipients(recipients), made).sealed(made)
    sealed.write_tar(folder / "pkg.tar")
    return folder / "pkg.tar"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3 * 65536, 1_000_003])
def test_every_byte_survives(tmp_path: Path, size: int) -> None:
    """Lengths around the chunks of age's format, 64 KiB."""
    plan = random.Random(size).randbytes(size)
    key, public = identity(tmp_path)
    found = Package.opened(package(tmp_path, public, plan=plan))
    found.verify()
    opened = Identities.load(key)
    assert found.with_identities(opened).read("sm89.plan") == plan
    assert found.with_identities(opened).read("lowered.onnx") == b"graph"
    assert found.with_identities(opened).read("reference.npz") == b"reference"
    assert plan not in found.path.read_bytes() or size < 2


def test_what_says_what_it_is_stays_readable(tmp_path: Path) -> None:
    _, public = identity(tmp_path)
    found = Package.opened(package(tmp_path, public))
    assert found.read("LICENSE") == b"free"
    assert found.model.encryption is not None
    assert found.model.encryption.recipients == (public,)
    assert {file.name for file in found.model.encryption.files} == set(FILES)


def test_each_of_several_recipients_can_read(tmp_path: Path) -> None:
    pairs = [identity(tmp_path, f"{index}.txt") for index in range(3)]
    (tmp_path / "all.txt").write_text("# team\n" + "".join(f"{public}\n" for _, public in pairs[:2]))
    found = Package.opened(package(tmp_path, str(tmp_path / "all.txt"), pairs[2][1]))
    for key, _ in pairs:
        assert found.with_identities(Identities.load(key)).read("sm89.plan") == b"plan"


def test_the_wanted_recipient_is_named(tmp_path: Path) -> None:
    _, public = identity(tmp_path)
    other, _ = identity(tmp_path, "other.txt")
    found = Package.opened(package(tmp_path, public))
    with pytest.raises(InputError, match=rf"sm89\.plan: encrypted to {public}"):
        found.read("sm89.plan")
    with pytest.raises(InputError, match=rf"no identity in .*other\.txt opens it: it is encrypted to {public}"):
        found.with_identities(Identities.load(other)).read("sm89.plan")


@pytest.mark.skipif(not Path("/usr/bin/ssh-keygen").exists(), reason="needs ssh-keygen")
def test_ssh_keys_are_taken(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    found = Package.opened(package(tmp_path, str(tmp_path / "id.pub")))
    assert found.with_identities(Identities.load(tmp_path / "id")).read("sm89.plan") == b"plan"


def test_a_changed_ciphertext_is_never_decrypted(tmp_path: Path) -> None:
    key, public = identity(tmp_path)
    path = package(tmp_path, public)
    data = bytearray(path.read_bytes())
    at = data.index(b"age-encryption.org/v1\n")  # of the first encrypted file
    data[at + 100] ^= 1  # in its header, whose length varies
    path.write_bytes(data)
    with pytest.raises(InputError, match="its digest differs"):
        Package.opened(path).with_identities(Identities.load(key)).read("lowered.onnx")


def test_nothing_decrypted_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = b"canary" * 40
    key, public = identity(tmp_path)
    path = package(tmp_path, public, plan=canary)
    assert canary not in path.read_bytes()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    written: list[int] = []
    real = os.open

    def watched(*arguments: object, **options: object) -> int:
        flags = arguments[1] if len(arguments) > 1 else options.get("flags", 0)
        assert isinstance(flags, int)
        if flags & (os.O_WRONLY | os.O_RDWR):
            written.append(flags)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", watched)
    assert Package.opened(path).with_identities(Identities.load(key)).read("sm89.plan") == canary
    assert (written, list(temporary.iterdir())) == ([], [])


@pytest.mark.parametrize(("given", "words"), [
    ("age1", "no public key"), ("age1qqqq", "no public key"), ("ssh-ed25519 AAAA", "no public key"),
    ("somebody", "no public key, and no file"), ("", "no public key, and no file"),
    ("AGE-SECRET-KEY-1CANARY", "that is a secret key"), ("age-secret-key-1canary", "that is a secret key"),
])  # fmt: skip
def test_what_is_no_recipient(given: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_recipients([given])
    assert "canary" not in f"{caught.value!r}".lower()


def test_a_file_of_secret_keys_is_no_file_of_recipients(tmp_path: Path) -> None:
    key, _ = identity(tmp_path)
    with pytest.raises(InputError, match="holds a secret key"):
        parse_recipients([str(key)])


def test_what_is_no_identity(tmp_path: Path) -> None:
    key, public = identity(tmp_path)
    for text in (
        "",
        "# nothing\n",
        public,
        "AGE-SECRET-KEY-1CANARY",
        "\x00\xff",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n",
    ):
        with pytest.raises(InputError, match=r"bad\.txt: (not a file of|holds no)") as caught:
            Identities.load(write(tmp_path / "bad.txt", text.encode()))
        assert "CANARY" not in f"{caught.value!r} {caught.value.__cause__!r}"
    key.chmod(0o640)
    with pytest.raises(InputError, match="others can read it"):
        Identities.load(key)
    assert "AGE-SECRET" not in repr(Identities.load(identity(tmp_path, "b.txt")[0]))


def test_a_plan_that_is_not_the_one_stated_is_refused(tmp_path: Path) -> None:
    """A record whose plan is another than the one inside is no record."""
    plan = record().plans[0]
    with pytest.raises(ValueError, match="sha256 of"):
        record(plans=(Plan(plan.file, plan.flavor, plan.version, plan.target, "0" * 64),)).check()
