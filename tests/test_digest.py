from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.digest import canonical_json, sha256_bytes, sha256_file, sha256_json, sha256_stream

#: From FIPS 180-2: the digest of "abc", of nothing, and of a million letters a.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
MILLION = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"


def test_known_digests(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data, digest in ((b"abc", ABC), (b"", NOTHING), (b"a" * 1_000_000, MILLION)):
        path.write_bytes(data)
        assert sha256_bytes(data) == sha256_bytes(memoryview(data)) == sha256_file(path) == digest


def test_files_larger_than_a_chunk(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data)


def test_a_stream_is_digested_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"xyzabc")
    with io.FileIO(tmp_path / "file") as stream:
        stream.seek(3)
        assert sha256_stream(stream) == ABC


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256_file(tmp_path / "missing")


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a plain file"):
        sha256_file(tmp_path / name)


def test_canonical_json_is_compact_sorted_and_plain_utf8() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": {"é": True, "": ""}}) == '{"a":{"":"","é":true},"b":[1,2.5,null]}'
    assert sha256_json("é") == sha256_bytes('"é"'.encode())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan], {"a": {"b": math.inf}}])
def test_numbers_json_does_not_have_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


@pytest.mark.parametrize(
    "value", [b"x", Path("x"), {1, 2}, object(), {1: 2}, {None: 1}, [{"a": {True: 1}}], ({2.5: 1},)]
)
def test_what_json_cannot_express_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=6), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value
