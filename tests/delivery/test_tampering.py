"""Signed packages that somebody changed: all are refused. A sample by default; ``-m slow`` for all of them."""

from __future__ import annotations

import io
import random
import shutil
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")

from packages import FILES
from tampering import CHANGES, accepted, check
from trust import authority, certificate, key_pair, pem, signed_package

from trtpipe.delivery.envelope import Envelope
from trtpipe.delivery.policy import TrustPolicy
from trtpipe.delivery.signing import SigningKey
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

#: Some flips give certificates serial numbers of which cryptography warns.
ODD_SERIALS = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
SIGNED = ("model.json", "model.sig", *FILES)


@pytest.fixture(params=["key", "certificate"])
def signing(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SigningKey, TrustPolicy]:
    pair = key_pair(tmp_path)
    if request.param == "key":
        return SigningKey(pair.path), TrustPolicy.of(key=pair.public)
    root = authority("root")
    between = authority("between", root)
    leaf = certificate("release", pair.private, "between", between.key)
    chain = pem(tmp_path / "chain.pem", leaf, between.certificate)
    return SigningKey(pair.path, certificate=chain), TrustPolicy.of(ca=pem(tmp_path / "ca.pem", root.certificate))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@ODD_SERIALS
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_flipped_bit_of_any_file_is_noticed(
    tmp_path: Path, signing: tuple[SigningKey, TrustPolicy], count: int
) -> None:
    key, policy = signing
    package = signed_package(tmp_path, key)
    check(package, policy)
    content = {name: (package / name).read_bytes() for name in SIGNED}
    chance = random.Random(count)
    for index in range(count):
        name = SIGNED[index % len(SIGNED)]
        bit = chance.randrange(8 * len(content[name]))
        (package / name).unlink()
        (package / name).write_bytes(flipped(content[name], bit))
        assert not accepted(package, policy), f"bit {bit} of {name}"
        (package / name).write_bytes(content[name])
    check(package, policy)


@ODD_SERIALS
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_flipped_bit_of_an_archive_is_noticed(
    tmp_path: Path, signing: tuple[SigningKey, TrustPolicy], count: int
) -> None:
    """Those of headers, of what fills them up, and of the end included."""
    key, policy = signing
    package = signed_package(tmp_path, key, tar=True)
    check(package, policy)
    data = package.read_bytes()
    chance = random.Random(count)
    for _ in range(count):
        bit = chance.randrange(8 * len(data))
        package.write_bytes(flipped(data, bit))
        assert not accepted(package, policy), f"bit {bit}"
    package.write_bytes(data)
    check(package, policy)


@ODD_SERIALS
@pytest.mark.parametrize("share", [0.02, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_flipped_bit_of_a_certificate_is_noticed(tmp_path: Path, share: float) -> None:
    """All bits of the chain, besides those that few changes above hit: whichever way the flipped one is decoded."""
    root = authority("root")
    between, pair = authority("between", root), key_pair(tmp_path)
    leaf = certificate("release", pair.private, "between", between.key)
    key = SigningKey(pair.path, certificate=pem(tmp_path / "chain.pem", leaf, between.certificate))
    policy = TrustPolicy.of(ca=pem(tmp_path / "ca.pem", root.certificate))
    package = signed_package(tmp_path, key)
    envelope = Envelope.parse_bundle((package / "model.sig").read_bytes(), package)
    (package / "model.sig").unlink()
    for place, data in enumerate(envelope.certificates):
        unused = 8 * (len(data) - len((leaf, between.certificate)[place].signature) - 1)
        bits = random.Random(place).sample(range(8 * len(data)), int(8 * len(data) * share))
        for bit in (*bits, *range(unused, unused + 8)):
            chain = list(envelope.certificates)
            chain[place] = flipped(data, bit)
            (package / "model.sig").write_bytes(replace(envelope, certificates=tuple(chain)).to_bundle())
            assert not accepted(package, policy), f"bit {bit} of certificate {place}"
    (package / "model.sig").write_bytes(envelope.to_bundle())
    check(package, policy)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_package_is_refused(tmp_path: Path, signing: tuple[SigningKey, TrustPolicy], change: str) -> None:
    key, policy = signing
    package = signed_package(tmp_path, key)
    check(package, policy)
    copy = tmp_path / "copy" / "pkg"
    shutil.copytree(package, copy)
    CHANGES[change](copy)
    with pytest.raises(InputError):
        check(copy, policy)


@pytest.mark.parametrize("change", ["order", "padding", "end", "owner", "more", "twice", "link"])
def test_a_changed_archive_is_refused(tmp_path: Path, signing: tuple[SigningKey, TrustPolicy], change: str) -> None:
    key, policy = signing
    package = signed_package(tmp_path, key, tar=True)
    with tarfile.open(package) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    data = package.read_bytes()
    if change == "padding":
        end = members[0][0].offset_data + members[0][0].size
        package.write_bytes(data[:end] + b"x" + data[end + 1 :])
    elif change == "end":
        package.write_bytes(data[:-512])
    elif change == "more":
        package.write_bytes(data + bytes(10240))
    else:
        if change == "order":
            members.reverse()
        if change == "owner":
            members[0][0].uname = "root"
        if change == "twice":
            members.append(members[-1])
        if change == "link":
            members[-1][0].type, members[-1][0].linkname = tarfile.LNKTYPE, members[0][0].name
        with tarfile.open(package, "w") as archive:
            for member, content in members:
                archive.addfile(member, io.BytesIO(content))
    with pytest.raises(InputError, match=r"pkg\.tar"):
        check(package, policy)
