"""Both kinds of bucket do the same; and what an object store refuses is said without showing the request."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from object_server import BUCKET, SECRET, ObjectServer, free_ports

from trtpipe.errors import HostError, InputError
from trtpipe.remote import Bucket, Denied, check_url, open_bucket


class TestObjects:
    def test_come_back_as_they_were_written(self, bucket: Bucket) -> None:
        bucket.put("a/b", b"one")
        bucket.put("a/b", b"two")
        found, head = bucket.get("a/b", 10), bucket.head("a/b")
        assert found is not None
        assert head is not None
        assert (found.data, head.size) == (b"two", 3)
        assert abs(found.modified - bucket.now()) < 5

    def test_are_missing_or_too_large(self, bucket: Bucket) -> None:
        bucket.put("a", b"12345")
        assert bucket.get("a", 4) is None
        assert bucket.get("b", 4) is None
        assert bucket.head("b") is None
        assert bucket.download("b", None, 10) is None
        bucket.delete("b")

    def test_are_listed_below_a_folder(self, bucket: Bucket) -> None:
        for name in ("x/1", "x/y/2", "xz/3"):
            bucket.put(name, name.encode())
        assert {each.name: each.size for each in bucket.list("x/")} == {"x/1": 3, "x/y/2": 5}
        bucket.delete("x/1")
        assert [each.name for each in bucket.list("x/")] == ["x/y/2"]

    def test_large_ones_travel_in_parts(self, bucket: Bucket, tmp_path: Path) -> None:
        content = os.urandom(33 << 20)  # three parts
        (tmp_path / "up").write_bytes(content)
        bucket.upload("large", tmp_path / "up")
        assert bucket.download("large", tmp_path / "down", len(content)) == hashlib.sha256(content).hexdigest()
        assert (tmp_path / "down").read_bytes() == content

    def test_are_read_to_a_limit(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.put("a", b"x" * 100)
        assert bucket.download("a", tmp_path / "a", 10) == hashlib.sha256(b"x" * 10).hexdigest()


class TestConditions:
    def test_a_name_is_created_once(self, bucket: Bucket) -> None:
        with ThreadPoolExecutor(8) as pool:
            tags = list(pool.map(lambda index: bucket.create("name", b"%d" % index), range(8)))
        assert sum(tag is not None for tag in tags) == 1
        found = bucket.get("name", 10)
        assert found is not None
        assert tags[int(found.data)] == found.tag

    def test_a_content_is_replaced_once(self, bucket: Bucket) -> None:
        tag = bucket.create("name", b"before")
        assert tag is not None
        with ThreadPoolExecutor(8) as pool:
            tags = list(pool.map(lambda index: bucket.replace("name", b"%d" % index, tag), range(8)))
        assert sum(each is not None for each in tags) == 1
        assert bucket.replace("other", b"", tag) is None


class TestRefusals:
    def test_a_reader_cannot_write(self, s3: str, server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
        open_bucket(s3).put("a", b"1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET.format("reader"))
        reader = open_bucket(s3, patience=1)
        found = reader.get("a", 10)
        assert found is not None
        assert found.data == b"1"
        assert [each.name for each in reader.list("")] == ["a"]
        attempts = (
            lambda: reader.put("a", b"2"),
            lambda: reader.create("b", b"2"),
            lambda: reader.replace("a", b"2", found.tag),
            lambda: reader.delete("a"),
        )
        for attempt in attempts:
            with pytest.raises(Denied):
                attempt()
        assert open_bucket(s3).get("a", 10) == found

    @pytest.mark.parametrize(("key", "secret"), [("writer", "wrong-secret-of-a-test"), ("nobody", "x" * 16)])
    def test_wrong_credentials_are_not_shown(
        self, s3: str, monkeypatch: pytest.MonkeyPatch, key: str, secret: str
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        with pytest.raises(Denied) as caught:
            open_bucket(s3).get("a", 10)
        text = f"{caught.value} {caught.value.remedy} {caught.value.__cause__} {caught.value.__suppress_context__}"
        assert secret not in text
        assert key not in text
        assert "Signature" not in text

    def test_no_bucket(self, s3: str) -> None:
        with pytest.raises(HostError, match="no such bucket"):
            open_bucket("s3://elsewhere/x").get("a", 10)

    def test_no_server(self, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
        begin = time.monotonic()
        with pytest.raises(HostError, match="does not answer") as caught:
            open_bucket(f"s3://{BUCKET}/x", patience=1).get("a", 10)
        assert time.monotonic() - begin < 4
        assert not isinstance(caught.value, Denied)

    def test_a_folder_that_may_not_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(HostError):
            open_bucket(f"file://{tmp_path}/file").put("a", b"1")


class Answers:
    """An S3 server that says one thing to every request."""

    def __init__(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><StringToSign>hunter2</StringToSign></Error>".encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "ExpiredToken", "expired"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "AccessDenied", "do not allow"),
        (404, "NoSuchBucket", "no such bucket"),
        (503, "SlowDown", "status 503"),
    ],
)
def test_what_a_store_refuses_is_said_in_words_of_ours(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, words: str
) -> None:
    pytest.importorskip("obstore")
    answers = Answers(status, code)
    monkeypatch.setenv("AWS_ENDPOINT_URL", answers.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-a-test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    bucket = open_bucket("s3://bucket/x", patience=0.5)
    try:
        for attempt in (lambda: bucket.get("a", 10), lambda: bucket.put("a", b"1"), lambda: bucket.create("a", b"1")):
            with pytest.raises(HostError, match=words) as caught:
                attempt()
            assert "hunter2" not in str(caught.getrepr(chain=True))
    finally:
        answers.server.shutdown()
        answers.server.server_close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:80"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:99999"),
        ("AWS_ENDPOINT", "ftp://127.0.0.1"),
        ("AWS_ENDPOINT_URL_S3", "http://me:hunter2@127.0.0.1"),
        ("AWS_ACCESS_KEY_ID", "hunter2\n"),
    ],
)
def test_an_environment_on_which_the_library_would_abort(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=name) as caught:
        open_bucket("s3://bucket/x", patience=0.1)
    assert "hunter2" not in f"{caught.value} {caught.value.remedy}"


@pytest.mark.parametrize(
    ("url", "variables", "words"),
    [
        ("az://bucket/x", {}, "AZURE_STORAGE_ACCOUNT_NAME"),
        ("s3://bucket/x", {"AWS_ACCESS_KEY_ID": "me"}, "AWS_SECRET_ACCESS_KEY"),
        ("gs://bucket/x", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json"}, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://bucket/x", {"GOOGLE_SERVICE_ACCOUNT_KEY": "{hunter2"}, "not as its cloud's"),
    ],
)
def test_credentials_that_are_no_whole_ones(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], words: str
) -> None:
    pytest.importorskip("obstore")
    for name in [each for each in os.environ if each.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HostError, match=words) as caught:
        open_bucket(url, patience=0.1)
    assert "hunter2" not in f"{caught.value} {caught.value.remedy} {caught.value.__cause__}"


@pytest.mark.parametrize("asked", ["http://169.254.169.254/latest/api/token", "http://metadata.google.internal/x"])
def test_no_credentials_are_not_taken_for_a_store_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    obstore = pytest.importorskip("obstore")

    def get(*_: object) -> None:
        raise obstore.exceptions.GenericError(f"Error performing PUT {asked} in 7 ms - status code: 403 Forbidden")

    monkeypatch.setattr(obstore, "get", get)
    monkeypatch.setattr("trtpipe.remote.objects._ROLE_SECONDS", 0.1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-a-test")
    begin = time.monotonic()
    with pytest.raises(HostError, match="holds no credentials"):
        open_bucket("s3://bucket/x").get("a", 10)
    assert time.monotonic() - begin < 10  # and not the minute that a store is given


def test_a_folder_where_none_can_be_made() -> None:
    with pytest.raises(HostError, match="cannot be made"):
        open_bucket("file:///proc/store").create("a", b"1")


class TestAddresses:
    @pytest.mark.parametrize(
        ("given", "plain"),
        [
            ("s3://bucket/some/prefix/", "s3://bucket/some/prefix"),
            ("gs://bucket", "gs://bucket"),
            ("file:///srv/store", "file:///srv/store"),
        ],
    )
    def test_have_a_plain_form(self, given: str, plain: str) -> None:
        assert check_url(given) == plain

    @pytest.mark.parametrize(
        "given",
        ["", "bucket", "http://host/x", "s3:///x", "s3://b/a//b", "s3://b/../c", "file://host/x", "file:x", "s3://[x"],
    )
    def test_others_are_refused(self, given: str) -> None:
        with pytest.raises(InputError):
            check_url(given)

    @pytest.mark.parametrize(
        "given",
        ["s3://me:hunter2@bucket/x", "s3://bucket/x?secret=hunter2", "s3://me:hunter2/w@bucket/x", "s3//me:hunter2@b",
         "S3://me:hunter2/w@bucket", "s3:/me:hunter2@bucket/x", "s3://bucket/x#hunter2", "s3://bucket/x@hunter2"],
    )  # fmt: skip
    def test_credentials_are_refused_and_not_shown(self, given: str) -> None:
        with pytest.raises(InputError) as caught:
            check_url(given)
        assert "hunter2" not in f"{caught.value} {caught.value.remedy}"
