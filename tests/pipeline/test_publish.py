from __future__ import annotations

import fcntl
import os

import pytest

from trtpipe.artifact import Artifact, FileEntry
from trtpipe.errors import HostError, InputError
from trtpipe.pipeline.publish import check_writable, publish_file, publish_folder
from trtpipe.report.manifest import Manifest, ManifestEntry
from trtpipe.report.verdict import Evidence, judge


@pytest.fixture
def artifact(tmp_path):
    """Make an artifact of files in a folder of its own, as the store keeps them."""

    def make(kind: str, **contents: str) -> Artifact:
        folder = tmp_path / "store" / kind
        folder.mkdir(parents=True, exist_ok=True)
        names = [name.replace("__", ".") for name in contents]
        for name, content in zip(names, contents.values(), strict=True):
            (folder / name).write_text(content)
        return Artifact(kind, folder, tuple(FileEntry.of(folder / name) for name in names))

    return make


@pytest.fixture
def bundle(artifact, tmp_path):
    """Artifacts with their manifest."""

    def make(*artifacts: Artifact) -> list[Artifact]:
        entries = tuple(ManifestEntry(label=a.kind, digest=a.digest, key="", files=a.files) for a in artifacts)
        manifest = Manifest(
            trtpipe="0", source="", precision="fp32", backend="null", targets=(), settings={}, toolchain={},
            calibration=None, artifacts=entries, verdict=judge(Evidence()),
        )  # fmt: skip
        return [artifact("manifest", manifest__json=manifest.to_json()), *artifacts]

    return make


def content(folder) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


class TestFolder:
    def test_all_files_and_nothing_else(self, artifact, tmp_path):
        out = tmp_path / "deep" / "out"
        publish_folder(
            [artifact("lowered", lowered__onnx="graph", lowered__json="facts"), artifact("latency", l__json="{}")], out
        )
        assert content(out) == {"lowered.onnx": "graph", "lowered.json": "facts", "l.json": "{}"}

    def test_files_of_the_earlier_bundle_that_are_gone_are_removed_and_the_users_own_stay(
        self, artifact, bundle, tmp_path
    ):
        out = tmp_path / "out"
        publish_folder(bundle(artifact("engine", sm86__plan="86"), artifact("model", model__onnx="m")), out)
        (out / "notes.txt").write_text("mine")
        (out / "sub").mkdir()
        (out / "sub" / "sm86.plan").write_text("mine too")
        publish_folder(bundle(artifact("engine", sm89__plan="89"), artifact("model", model__onnx="m2")), out)
        assert set(content(out)) == {"manifest.json", "sm89.plan", "model.onnx", "notes.txt", "sub/sm86.plan"}
        assert content(out)["model.onnx"] == "m2"

    def test_a_manifest_that_is_not_ours_removes_nothing(self, artifact, bundle, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "manifest.json").write_text('{"artifacts": [{"files": [{"name": "precious.txt"}]}]}')
        (out / "precious.txt").write_text("mine")
        publish_folder(bundle(artifact("model", model__onnx="m")), out)
        assert (out / "precious.txt").read_text() == "mine"

    def test_a_manifest_cannot_name_files_elsewhere(self, artifact, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (tmp_path / "precious.txt").write_text("mine")
        entry = ManifestEntry(
            label="model", digest="", key="", files=(FileEntry(name="../precious.txt", sha256="", size=0),)
        )
        manifest = Manifest(
            trtpipe="0", source="", precision="fp32", backend="null", targets=(), settings={}, toolchain={},
            calibration=None, artifacts=(entry,), verdict=judge(Evidence()),
        )  # fmt: skip
        manifest.write(out / "manifest.json")
        publish_folder([artifact("model", model__onnx="m")], out)
        assert (tmp_path / "precious.txt").exists()

    def test_what_has_not_changed_is_not_written_again(self, artifact, tmp_path):
        out = tmp_path / "out"
        made = [artifact("model", model__onnx="m"), artifact("engine", sm89__plan="one")]
        publish_folder(made, out)
        os.utime(out / "model.onnx", (1, 1))
        publish_folder([made[0], artifact("engine", sm89__plan="two")], out)
        assert (out / "model.onnx").stat().st_mtime == 1
        assert content(out)["sm89.plan"] == "two"

    def test_the_manifest_comes_last(self, artifact, bundle, tmp_path, monkeypatch):
        order = []
        replace = type(tmp_path).replace

        def remembered(self, target):
            order.append(target.name)
            return replace(self, target)

        monkeypatch.setattr(type(tmp_path), "replace", remembered)
        publish_folder(bundle(artifact("model", model__onnx="m"), artifact("engine", sm89__plan="e")), tmp_path / "out")
        assert order == ["model.onnx", "sm89.plan", "manifest.json"]

    def test_published_files_can_be_changed_and_the_store_keeps_its_own(self, artifact, tmp_path):
        made = artifact("model", model__onnx="m")
        made.path.chmod(0o444)
        publish_folder([made], tmp_path / "out")
        (tmp_path / "out" / "model.onnx").write_text("edited")
        assert made.path.read_text() == "m"

    def test_a_full_disk_leaves_everything_as_it_was(self, artifact, bundle, tmp_path, monkeypatch):
        out = tmp_path / "out"
        publish_folder(bundle(artifact("model", model__onnx="old"), artifact("engine", sm89__plan="old")), out)
        before = content(out)
        import shutil

        copyfile = shutil.copyfile

        def full(source, target):
            if "sm89" in str(source):
                raise OSError(28, "No space left on device")
            return copyfile(source, target)

        monkeypatch.setattr(shutil, "copyfile", full)
        with pytest.raises(HostError, match="no space left") as caught:
            publish_folder(bundle(artifact("model", model__onnx="new"), artifact("engine", sm89__plan="new")), out)
        assert "-o" in caught.value.remedy
        assert content(out) == before

    def test_a_file_that_cannot_be_replaced_leaves_everything_as_it_was(self, artifact, bundle, tmp_path, monkeypatch):
        out = tmp_path / "out"
        old = [artifact("model", model__onnx="old"), artifact("engine", sm89__plan="old", gone__json="old")]
        publish_folder(bundle(*old), out)
        before = content(out)
        replace = type(tmp_path).replace

        def fail(self, target):
            if "old" not in self.parent.name and target.name == "sm89.plan" and self.read_text() == "new":
                raise OSError(5, "Input/output error")
            return replace(self, target)

        monkeypatch.setattr(type(tmp_path), "replace", fail)
        with pytest.raises(HostError, match="input/output error"):
            publish_folder(bundle(artifact("model", model__onnx="new"), artifact("engine", sm89__plan="new")), out)
        assert content(out) == before

    def test_there_is_no_manifest_while_files_are_replaced(self, artifact, bundle, tmp_path, monkeypatch):
        out = tmp_path / "out"
        publish_folder(bundle(artifact("model", model__onnx="old")), out)
        seen = []
        replace = type(tmp_path).replace

        def watched(self, target):
            seen.append((target.name, (out / "manifest.json").exists()))
            return replace(self, target)

        monkeypatch.setattr(type(tmp_path), "replace", watched)
        publish_folder(bundle(artifact("model", model__onnx="new")), out)
        assert seen == [("model.onnx", False), ("manifest.json", False)]

    def test_what_a_killed_run_left_is_removed_and_what_a_live_one_works_on_is_not(self, artifact, tmp_path):
        out = tmp_path / "out"
        for name in ("dead", "alive"):
            (out / f".trtpipe-{name}").mkdir(parents=True)
            (out / f".trtpipe-{name}" / "half").write_text("half")
        handle = os.open(out / ".trtpipe-alive", os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            publish_folder([artifact("model", model__onnx="m")], out)
            assert sorted(path.name for path in out.iterdir()) == [".trtpipe-alive", "model.onnx"]
        finally:
            os.close(handle)
        publish_folder([artifact("model", model__onnx="m")], out)
        assert [path.name for path in out.iterdir()] == ["model.onnx"]


class TestFile:
    def test_a_file_name_keeps_the_side_files_beside_it(self, artifact, tmp_path):
        made = artifact("lowered", lowered__onnx="graph", lowered__onnx__json="facts")
        where = publish_file(made, tmp_path / "out" / "net.onnx", (".onnx",))
        assert where == tmp_path / "out" / "net.onnx"
        assert content(tmp_path / "out") == {"net.onnx": "graph", "net.onnx.json": "facts"}

    def test_anything_else_is_a_folder(self, artifact, tmp_path):
        made = artifact("lowered", lowered__onnx="graph")
        assert publish_file(made, tmp_path / "out", (".onnx",)) == tmp_path / "out" / "lowered.onnx"
        (tmp_path / "folder.onnx").mkdir()
        assert publish_file(made, tmp_path / "folder.onnx", (".onnx",)) == tmp_path / "folder.onnx" / "lowered.onnx"

    def test_weights_outside_the_file_fix_its_name(self, artifact, tmp_path):
        made = artifact("lowered", lowered__onnx="graph", lowered__onnx__data="weights")
        with pytest.raises(InputError, match=r"keeps its weights in lowered\.onnx\.data"):
            publish_file(made, tmp_path / "net.onnx", (".onnx",))
        publish_file(made, tmp_path / "lowered.onnx", (".onnx",))
        assert (tmp_path / "lowered.onnx.data").read_text() == "weights"

    def test_an_earlier_file_is_replaced(self, artifact, tmp_path):
        (tmp_path / "net.onnx").write_text("old")
        publish_file(artifact("lowered", lowered__onnx="new"), tmp_path / "net.onnx", (".onnx",))
        assert (tmp_path / "net.onnx").read_text() == "new"


class TestWritable:
    def test_a_folder_to_be_made_anywhere_below(self, tmp_path):
        check_writable(tmp_path / "a" / "b" / "c")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "file").touch()
        for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
            with pytest.raises(InputError, match="a file, so"):
                check_writable(out)

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
    def test_no_permission(self, tmp_path):
        tmp_path.chmod(0o555)
        try:
            with pytest.raises(HostError, match="cannot be written to"):
                check_writable(tmp_path / "out")
        finally:
            tmp_path.chmod(0o755)

    def test_a_file_system_that_takes_nothing(self, tmp_path, monkeypatch):
        import tempfile

        def refuse(*args, **options):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        with pytest.raises(HostError, match="Read-only file system"):
            check_writable(tmp_path / "out")


class TestReport:
    """The page about a bundle is not of the bundle, but goes with it."""

    @pytest.fixture
    def published(self, artifact, bundle, tmp_path):
        publish_folder(bundle(artifact("engine", sm89__plan="one")), tmp_path / "out")
        (tmp_path / "out" / "report.html").write_text("about one")
        return tmp_path / "out"

    def test_goes_when_the_bundle_changes(self, published, artifact, bundle):
        publish_folder(bundle(artifact("engine", sm89__plan="two")), published)
        assert not (published / "report.html").exists()

    def test_stays_when_nothing_changes(self, published, artifact, bundle):
        publish_folder(bundle(artifact("engine", sm89__plan="one")), published)
        assert (published / "report.html").read_text() == "about one"

    def test_of_somebody_else_stays(self, artifact, bundle, tmp_path):
        (tmp_path / "report.html").write_text("mine")
        publish_folder(bundle(artifact("engine", sm89__plan="one")), tmp_path)
        assert (tmp_path / "report.html").read_text() == "mine"
