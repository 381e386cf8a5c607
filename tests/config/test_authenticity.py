from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trtpipe.config.authenticity import Mac, UserKey
from trtpipe.config.settings import Settings, user_key
from trtpipe.errors import HostError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_code_is_that_of_the_rfc() -> None:
    """RFC 4231, test case 2, whose data is split at the purpose."""
    import hashlib
    import hmac

    seal = Mac(b"Jefe")
    assert seal.seal("what", b"x") == hmac.new(b"Jefe", b"what\0x", hashlib.sha256).hexdigest()


def test_only_the_same_key_purpose_and_message_verify() -> None:
    seal = Mac(b"k" * 32)
    proof = seal.seal("entry", b"message")
    assert seal.verify("entry", b"message", proof)
    assert not seal.verify("memo", b"message", proof)
    assert not seal.verify("entry", b"messagf", proof)
    assert not Mac(b"j" * 32).verify("entry", b"message", proof)
    for other in ("", proof[:-1], proof.upper(), "é", "\udcff", proof + "0"):
        assert not seal.verify("entry", b"message", other)


def test_the_key_is_made_once_and_for_the_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "config" / "trtpipe" / "cache.key"
    before = os.umask(0)
    try:
        with ThreadPoolExecutor(8) as pool:
            seals = list(pool.map(lambda _: UserKey("", file).mac, range(32)))
    finally:
        os.umask(before)
    assert len({seal.key for seal in seals}) == 1
    assert [path.name for path in file.parent.iterdir()] == ["cache.key"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert UserKey("", tmp_path / "other").mac.key != seals[0].key


@pytest.mark.parametrize("umask", [0o077, 0o777])
def test_a_narrow_umask(tmp_path: Path, umask: int) -> None:
    (tmp_path / "config").mkdir()
    before = os.umask(umask)
    try:
        assert UserKey("", tmp_path / "config" / "cache.key").lasting
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "config" / "cache.key").stat().st_mode) == 0o600


def _link(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(bytes(32))
    other.chmod(0o600)
    file.symlink_to(other)


def _write(file: Path, data: bytes = bytes(32), mode: int = 0o600) -> None:
    file.write_bytes(data)
    file.chmod(mode)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_link, "a link"),
        (os.mkfifo, "no file"),
        (lambda file: _write(file, mode=0o640), "others"),
        (lambda file: _write(file, mode=0o602), "others"),
        (lambda file: _write(file, b""), "32 bytes"),
        (lambda file: _write(file, bytes(33)), "32 bytes"),
    ],
)
def test_a_key_that_is_none_of_ours_is_refused(tmp_path: Path, harm: Callable[[Path], object], complaint: str) -> None:
    harm(tmp_path / "cache.key")
    with pytest.raises(HostError, match=complaint) as caught:
        UserKey("", tmp_path / "cache.key").seal("entry", b"")
    assert "TRTPIPE_CACHE_KEY" in caught.value.remedy


def test_where_no_key_can_be_kept_it_lasts_as_long_as_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (UserKey("", None), UserKey("", tmp_path / "file" / "cache.key")):
        seal = place
        assert not seal.lasting
        assert seal.verify("entry", b"x", place.mac.seal("entry", b"x"))


def test_where_the_key_comes_from() -> None:
    assert user_key({"HOME": "/h"}).file == Path("/h/.config/trtpipe/cache.key")
    assert user_key({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}).file == Path("/c/trtpipe/cache.key")
    assert user_key({"HOME": "/h", "XDG_CONFIG_HOME": "relative"}).file == Path("/h/.config/trtpipe/cache.key")
    given = [user_key({"HOME": home, "TRTPIPE_CACHE_KEY": "a secret of sixteen"}).mac for home in ("/a", "/b")]
    assert given[0].lasting
    assert given[0].key == given[1].key
    assert user_key({"HOME": "/a", "TRTPIPE_CACHE_KEY": "another secret of mine"}).mac.key != given[0].key


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(InputError, match="TRTPIPE_CACHE_KEY") as caught:
        Settings.from_environment({"HOME": "/h", "TRTPIPE_CACHE_KEY": "secret"})
    assert "secret" not in caught.value.message.partition("a secret")[0]


def test_the_secret_is_not_shown() -> None:
    settings = Settings.from_environment({"HOME": "/h", "TRTPIPE_CACHE_KEY": "do not print me, please"})
    assert "do not print" not in f"{settings!r} {settings.key!r}"
    assert repr(Mac(b"do not print").key) not in repr(Mac(b"do not print"))
