"""Machines that share a store: caches in folders of their own, before one bucket."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from object_server import SECRET, ObjectServer

from trtpipe.artifact import Artifact, Draft
from trtpipe.config.authenticity import Mac
from trtpipe.errors import HostError
from trtpipe.remote import Bucket, Denied, open_bucket
from trtpipe.store import ArtifactStore, Key, SharedStore
from trtpipe.store.entry import seal
from trtpipe.store.shared_layout import object_name, record_name

KEY, OTHER = (Key(stage="lower", inputs={"model": name}) for name in ("one", "two"))
OURS, THEIRS = Mac(b"k" * 32), Mac(b"x" * 32)
CONTENT = {"lowered.onnx": b"graph" * 1000, "lowered.onnx.json": b"{}"}
Machine = Callable[..., ArtifactStore]


@pytest.fixture
def machine(url: str, tmp_path: Path, heard_all: object) -> Machine:
    """A machine with a cache of its own, called by a name."""

    def make(name: str, by: Mac = OURS, term: float = 0.8) -> ArtifactStore:
        shared = SharedStore(url, by, heard_all, term, patience=3)  # type: ignore[arg-type]
        return ArtifactStore(tmp_path / name, heard_all, by, shared)  # type: ignore[arg-type]

    return make


def put(store: ArtifactStore, key: Key = KEY, content: dict[str, bytes] = CONTENT) -> Artifact:
    with store.workdir() as work:
        for name, data in content.items():
            (work / name).write_bytes(data)
        return store.put(key, Draft("lowered", work, tuple(content)), seconds=1.0)


def content(artifact: Artifact | None) -> dict[str, bytes] | None:
    return None if artifact is None else {f.name: (artifact.folder / f.name).read_bytes() for f in artifact.files}


def shared(url: str, by: Mac = OURS) -> SharedStore:
    from trtpipe.progress import NullProgress

    return SharedStore(url, by, NullProgress(), 1.0, patience=3)


class TestSharing:
    def test_what_one_machine_made_another_one_finds(self, machine: Machine) -> None:
        put(machine("a"))
        second = machine("b")
        found = second.lookup(KEY)
        assert content(found) == CONTENT
        assert second.lookup(OTHER) is None
        assert second.verify().corrupt == ()

    def test_it_stays_when_the_store_is_gone(self, machine: Machine, tmp_path: Path) -> None:
        put(machine("a"))
        machine("b").lookup(KEY)
        assert content(ArtifactStore(tmp_path / "b", seal=OURS).lookup(KEY)) == CONTENT

    def test_what_a_machine_had_before_is_shared_when_it_is_used(self, machine: Machine, tmp_path: Path) -> None:
        put(ArtifactStore(tmp_path / "a", seal=OURS))
        machine("a").lookup(KEY)
        assert content(machine("b").lookup(KEY)) == CONTENT

    def test_the_first_of_two_results_is_everybody_s(self, machine: Machine) -> None:
        first, second = machine("a"), machine("b")
        put(first)
        assert content(put(second, content={"lowered.onnx": b"other"})) == CONTENT

    def test_values_are_remembered_for_all(self, machine: Machine) -> None:
        machine("a").remember("a name", {"value": [1, 2]})
        assert machine("b").recall("a name") == {"value": [1, 2]}
        assert machine("b", THEIRS).recall("a name") is None


class TestOneBuilder:
    def test_of_eight_machines_one_builds(self, machine: Machine) -> None:
        builds = []

        def want(index: int) -> dict[str, bytes] | None:
            store = machine(f"m{index}")
            with store.lock(KEY):
                if store.lookup(KEY) is None:
                    builds.append(index)
                    time.sleep(0.2)
                    put(store, content={"lowered.onnx": b"by %d" % index})
            return content(store.lookup(KEY))

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(want, range(8)))
        assert len(builds) == 1
        assert found == [{"lowered.onnx": b"by %d" % builds[0]}] * 8

    def test_the_work_of_a_dead_one_is_taken_over(self, machine: Machine, bucket: Bucket, url: str) -> None:
        from trtpipe.store.layout import entry_name

        open_bucket(url).put(f"leases/{entry_name(KEY, OURS)}", b"dead 1")
        store, begin = machine("a"), time.monotonic()
        with store.lock(KEY):
            assert time.monotonic() - begin > 0.8
            put(store)
        assert content(machine("b").lookup(KEY)) == CONTENT

    def test_a_hit_takes_no_lease(self, machine: Machine, bucket: Bucket) -> None:
        store = machine("a")
        put(store)
        with store.lock(KEY):
            assert list(bucket.list("leases/")) == []


class TestWhoIsNotTrusted:
    def test_an_entry_under_another_key_is_not_used(self, machine: Machine) -> None:
        put(machine("a", THEIRS), content={"lowered.onnx": b"evil"})
        assert machine("b").lookup(KEY) is None

    def test_nor_is_one_that_was_put_in_place_of_ours(self, machine: Machine, bucket: Bucket, url: str) -> None:
        put(machine("a", THEIRS), content={"lowered.onnx": b"evil"})
        forged = bucket.get(record_name(KEY, THEIRS), 1 << 20)
        assert forged is not None
        bucket.put(record_name(KEY, OURS), forged.data)
        store = machine("b")
        assert store.lookup(KEY) is None
        put(store)
        assert content(machine("c").lookup(KEY)) == CONTENT

    def test_a_record_of_ours_counts_for_its_own_key_alone(self, machine: Machine, bucket: Bucket) -> None:
        put(machine("a"))
        found = bucket.get(record_name(KEY, OURS), 1 << 20)
        assert found is not None
        bucket.put(record_name(OTHER, OURS), found.data)
        assert machine("b").lookup(OTHER) is None

    @pytest.mark.parametrize("change", [b"", b"grapf" * 1000, b"graph" * 1001, b"graph" * 999])
    def test_a_changed_file_is_not_used_and_made_again(self, machine: Machine, bucket: Bucket, change: bytes) -> None:
        file = next(f for f in put(machine("a")).files if f.name == "lowered.onnx")
        bucket.put(object_name(file.sha256), change)
        store = machine("b")
        assert store.lookup(KEY) is None
        put(store)
        assert content(machine("c").lookup(KEY)) == CONTENT

    def test_a_missing_file_is_made_again_too(self, machine: Machine, bucket: Bucket) -> None:
        file = put(machine("a")).files[0]
        bucket.delete(object_name(file.sha256))
        store = machine("b")
        assert store.lookup(KEY) is None
        put(store)
        assert content(machine("c").lookup(KEY)) == CONTENT

    def test_a_record_that_names_a_file_elsewhere_is_refused(self, machine: Machine, bucket: Bucket) -> None:
        put(machine("a"))
        found = bucket.get(record_name(KEY, OURS), 1 << 20)
        assert found is not None
        import json

        record = json.loads(found.data)["content"]
        record["files"][0]["name"] = "../evil"
        bucket.put(record_name(KEY, OURS), seal(record, OURS))
        assert machine("b").lookup(KEY) is None


class TestWithoutPrivileges:
    def test_a_reader_uses_what_is_there_and_keeps_the_rest(
        self, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard_all: object
    ) -> None:
        def machine(name: str) -> ArtifactStore:
            store = SharedStore(s3, OURS, heard_all, 1.0, patience=2)  # type: ignore[arg-type]
            return ArtifactStore(tmp_path / name, heard_all, OURS, store)  # type: ignore[arg-type]

        put(machine("a"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET.format("reader"))
        reader = machine("b")
        assert content(reader.lookup(KEY)) == CONTENT
        with reader.lock(OTHER):
            put(reader, OTHER)
        assert content(reader.lookup(OTHER)) == CONTENT
        assert machine("c").lookup(OTHER) is None
        warnings = heard_all.warnings  # type: ignore[attr-defined]
        assert len(warnings) == 1
        assert SECRET.format("reader") not in warnings[0]

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
    def test_a_full_store_costs_no_result(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard_all: object, code: int
    ) -> None:
        def machine(name: str) -> ArtifactStore:
            store = SharedStore(f"file://{tmp_path}/shared", OURS, heard_all, 1.0)  # type: ignore[arg-type]
            return ArtifactStore(tmp_path / name, heard_all, OURS, store)  # type: ignore[arg-type]

        def full(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        put(machine("a"))
        monkeypatch.setattr("trtpipe.remote.folder.write_new", full)
        monkeypatch.setattr("trtpipe.remote.folder.copy_new", full)
        store = machine("b")
        assert content(store.lookup(KEY)) == CONTENT
        with store.lock(OTHER):
            put(store, OTHER)
        store.remember("name", 1)
        assert content(store.lookup(OTHER)) == CONTENT
        assert store.recall("name") == 1
        (warning,) = heard_all.warnings  # type: ignore[attr-defined]
        assert "stay on this machine" in warning
        monkeypatch.undo()  # there is room again: the next run shares what this machine has
        machine("b").lookup(OTHER)
        assert content(machine("c").lookup(OTHER)) == CONTENT

    def test_wrong_credentials_end_before_any_work(self, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-a-test")
        with pytest.raises(Denied):
            shared(s3)

    def test_a_store_of_another_version_is_refused(self, url: str, bucket: Bucket) -> None:
        bucket.put("trtpipe-store.json", b'{"trtpipe store": 2}\n')
        with pytest.raises(HostError):
            shared(url)


class TestMaintenance:
    def test_entries_are_listed(self, machine: Machine, url: str) -> None:
        put(machine("a"))
        put(machine("a"), OTHER)
        found = shared(url).entries()
        assert {each.entry.digest for each in found} == {KEY.digest, OTHER.digest}
        assert all(each.size > sum(map(len, CONTENT.values())) for each in found)

    def test_verify_finds_what_was_changed_and_removes_it(self, machine: Machine, url: str, bucket: Bucket) -> None:
        file = put(machine("a")).files[0]
        put(machine("a"), OTHER, {"lowered.onnx": b"sound"})
        put(machine("a", THEIRS))
        assert shared(url).verify().corrupt == ()
        bucket.put(object_name(file.sha256), b"changed")
        report = shared(url).verify()
        assert (report.checked, report.foreign, len(report.corrupt)) == (3, 1, 1)
        assert file.name in report.corrupt[0]
        assert [each.entry.digest for each in shared(url).entries()] == [OTHER.digest]

    def test_the_oldest_are_pruned_until_the_rest_fits(self, machine: Machine, url: str) -> None:
        put(machine("a"), KEY, {"lowered.onnx": b"a" * 5000})
        time.sleep(1.1)  # S3 tells whole seconds
        put(machine("a"), OTHER, {"lowered.onnx": b"b" * 5000})
        report = shared(url).prune(8000, None, grace_seconds=0)
        assert (report.removed, report.kept) == (1, 1)
        assert machine("b").lookup(KEY) is None
        assert machine("b").lookup(OTHER) is not None

    def test_files_of_a_pruned_entry_stay_for_those_who_fetch_it(
        self, machine: Machine, url: str, bucket: Bucket
    ) -> None:
        put(machine("a"))
        assert shared(url).prune(0, None).removed == 1
        assert len(list(bucket.list("objects/"))) == len(CONTENT)
        shared(url).prune(None, None, grace_seconds=0)
        assert list(bucket.list("objects/")) == []
        assert list(bucket.list("removed/")) == []

    def test_old_ones_are_pruned(self, machine: Machine, url: str) -> None:
        put(machine("a"))
        assert shared(url).prune(None, 3600).removed == 0
        time.sleep(2.1)
        assert shared(url).prune(None, 1).removed == 1

    def test_what_is_not_ours_is_left_alone(self, machine: Machine, url: str, bucket: Bucket) -> None:
        foreign = ("holiday.jpg", "entries/notes.txt", "entries/lower/ab/short.json", "objects/readme")
        for name in foreign:
            bucket.put(name, b"precious")
        put(machine("a"))
        assert shared(url).verify().corrupt == ()
        shared(url).prune(0, 0, grace_seconds=0)
        assert all(bucket.head(name) is not None for name in foreign)

    def test_no_reader_is_hurt(self, machine: Machine, url: str) -> None:
        """Machines fetch and build while another prunes everything: each gets whole content, or builds."""
        end, wrong = time.monotonic() + 3, []

        def read(index: int) -> None:
            count = 0
            while time.monotonic() < end:
                store = machine(f"r{index}-{count}")  # an empty cache each time
                count += 1
                with store.lock(KEY):
                    found = store.lookup(KEY) or put(store)
                if content(found) != CONTENT:
                    wrong.append(index)

        def prune() -> None:
            while time.monotonic() < end:
                shared(url).prune(0, None)

        threads = [threading.Thread(target=read, args=(index,)) for index in range(3)]
        threads.append(threading.Thread(target=prune))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert shared(url).verify().corrupt == ()


@pytest.mark.slow
def test_the_server_is_killed_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard_all: object
) -> None:
    with ObjectServer(tmp_path / "seaweed") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        where = "s3://builds/killed"
        store = ArtifactStore(tmp_path / "a", seal=OURS, shared=SharedStore(where, OURS, heard_all, 5.0))  # type: ignore[arg-type]
        put(store)
        for round_ in range(3):
            server.kill()
            back = threading.Timer(0.5, server.start)
            back.start()
            key = Key(stage="lower", inputs={"model": str(round_)})
            with store.lock(key):
                put(store, key, {"lowered.onnx": os.urandom(1000)})
            back.join()
        assert shared(where).verify().corrupt == ()
        assert len(shared(where).entries()) == 4
