"""Timings kept from build to build: found again for the same machine, and never trusted when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtpipe.backends.trt.timing_cache import TimingStore, keep_timings, use_timings
from trtpipe.config.authenticity import Mac

HERE = {"tensorrt": "11.4.0", "device": "NVIDIA L4", "driver": "570"}


@pytest.fixture
def kept(tmp_path):
    store = TimingStore.of(tmp_path / "cache", HERE)
    (tmp_path / "made").write_bytes(b"kernels and times")
    store.keep(tmp_path / "made")
    return store


def test_what_is_kept_is_found_again(kept, tmp_path):
    TimingStore.of(tmp_path / "cache", dict(HERE)).fetch(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == b"kernels and times"


@pytest.mark.parametrize("changed", ["tensorrt", "device", "driver"])
def test_another_machine_has_its_own(kept, tmp_path, changed):
    other = TimingStore.of(tmp_path / "cache", HERE | {changed: "another"})
    other.fetch(tmp_path / "again")
    assert other.path != kept.path
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:40], lambda data: b"", lambda data: data + b"x"]
)
def test_a_damaged_file_counts_as_none(kept, tmp_path, damage):
    kept.path.write_bytes(damage(kept.path.read_bytes()))
    kept.fetch(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_is_not_ours_or_of_another_machine_counts_as_none(kept, tmp_path):
    TimingStore.of(tmp_path / "cache", HERE, Mac(bytes(32))).fetch(tmp_path / "again")
    other = TimingStore.of(tmp_path / "cache", HERE | {"driver": "580"})
    kept.path.rename(other.path)
    other.fetch(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path):
    (tmp_path / "cache").write_text("a file")
    (tmp_path / "made").write_bytes(b"times")
    store = TimingStore.of(tmp_path / "cache", HERE)
    store.keep(tmp_path / "made")
    store.fetch(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert (tmp_path / "cache").read_text() == "a file"
    assert (tmp_path / "made").read_bytes() == b"times"


def test_a_build_that_made_none_keeps_none(tmp_path):
    store = TimingStore.of(tmp_path / "cache", HERE)
    store.keep(tmp_path / "never made")
    assert not store.path.exists()


class Config:
    """A builder's configuration that only takes an empty cache."""

    def __init__(self, takes: bytes) -> None:
        self.takes = takes
        self.used: list[bytes] = []

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.used.append(cache)
        return cache == self.takes


def test_timings_of_another_builder_give_way_to_an_empty_cache(tmp_path):
    path = tmp_path / "timings"
    path.write_bytes(b"of another version")
    config = Config(takes=b"")
    use_timings(config, str(path))
    assert config.used == [b"of another version", b""]


def test_without_a_file_nothing_is_asked():
    use_timings(None, "")
    keep_timings(None, "")
    assert not Path("timings").exists()
