"""A store to test, and artifacts to put into it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import pytest
from fixtures_remote import bucket, s3, server, url  # noqa: F401

from trtpipe.artifact import Artifact, Draft
from trtpipe.store import ArtifactStore, Key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Listener:
    """A Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def begin(self, step: str) -> None: ...
    def advance(self, phase: str, done: int, total: int | None) -> None: ...
    def end(self, step: str, outcome: str) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class Build(Protocol):
    def __call__(self, store: ArtifactStore, key: Key, content: Mapping[str, bytes] = ...) -> Artifact: ...


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files are synced here; only the crash tests, in their own process, need the real thing."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def store(tmp_path: Path, listener: Listener) -> Iterator[ArtifactStore]:
    with ArtifactStore(tmp_path / "cache", listener) as opened:
        yield opened


@pytest.fixture
def key() -> Key:
    return Key(
        stage="compile",
        stage_version=2,
        target="sm89",
        inputs={"lowered": "0" * 64},
        settings={"workspace": 1 << 30, "shapes": [{"x": [1, 3]}]},
        toolchain={"onnx": "1.18.0"},
        backend={"name": "null"},
    )


@pytest.fixture
def build() -> Build:
    def put(store: ArtifactStore, key: Key, content: Mapping[str, bytes] = {"sm89.plan": b"engine"}) -> Artifact:
        with store.workdir() as folder:
            for name, data in content.items():
                (folder / name).write_bytes(data)
            return store.put(key, Draft("engine", folder, tuple(content), key.target), seconds=1.5)

    return put
