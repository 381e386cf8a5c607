from __future__ import annotations

import dataclasses
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from trtpipe.artifact import Artifact, FileEntry
from trtpipe.errors import HostError, InputError
from trtpipe.pipeline import publish
from trtpipe.pipeline.publish import check_writable, publish_file, publish_folder, write_file, write_files
from trtpipe.report.manifest import Manifest, ManifestEntry
from trtpipe.report.verdict import Evidence, verdict_of


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
            calibration=None, artifacts=entries, verdict=verdict_of(Evidence()),
        )  # fmt: skip
        return [artifact("manifest", manifest__json=manifest.to_file()), *artifacts]

    return make


#: The record of what trtpipe wrote into a folder.
RECORD = ".trtpipe.json"


def content(folder) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD)
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def killed_at(step: int, artifacts, out) -> int:
    """Publish in a child, which ends without any cleaning up at a rename; 0 if it came to its end before."""
    count = iter(range(1000))

    def counted(call):
        def run(*arguments, **options):
            if next(count) == step:
                os._exit(9)
            made = call(*arguments, **options)
            if next(count) == step:
                os._exit(9)
            return made

        return run

    for name in ("replace", "rename", "link", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    publish_folder(artifacts, out)
    return 0


class TestFolder:
    def test_all_files_and_nothing_else(self, artifact, tmp_path):
        out = tmp_path / "deep" / "out"
        publish_folder(
            [artifact("lowered", lowered__onnx="graph", lowered__json="record"), artifact("latency", l__json="{}")], out
        )
        assert content(out) == {"lowered.onnx": "graph", "lowered.json": "record", "l.json": "{}"}

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

    @pytest.mark.parametrize("digest", ["true", "false"])
    def test_an_edited_manifest_removes_nothing_whatever_digests_it_gives(self, artifact, bundle, tmp_path, digest):
        out = tmp_path / "out"
        publish_folder(bundle(artifact("model", model__onnx="m")), out)
        (out / "id_rsa").write_text("mine")
        manifest = json.loads((out / "manifest.json").read_text())
        entry = (
            FileEntry.of(out / "id_rsa").to_dict() if digest == "true" else {"name": "id_rsa", "sha256": "", "size": 1}
        )
        manifest["artifacts"][0]["files"].append(entry)
        (out / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=r"manifest\.json"):
            publish_folder(bundle(artifact("model", model__onnx="m2")), out)
        assert (content(out)["id_rsa"], content(out)["model.onnx"]) == ("mine", "m")
        (out / "manifest.json").unlink()
        publish_folder(bundle(artifact("model", model__onnx="m2")), out)
        assert (content(out)["id_rsa"], content(out)["model.onnx"]) == ("mine", "m2")

    def test_a_whole_bundle_of_somebody_else_is_left(self, artifact, bundle, tmp_path):
        out = tmp_path / "out"
        publish_folder(bundle(artifact("model", model__onnx="m"), artifact("engine", sm86__plan="e")), out)
        (out / RECORD).unlink()  # as it came out of an archive, or was written by hand
        before = content(out)
        with pytest.raises(InputError, match="is there already"):
            publish_folder(bundle(artifact("model", model__onnx="m2")), out)
        assert content(out) == before
        publish_folder(
            bundle(artifact("model", model__onnx="m"), artifact("engine", sm86__plan="e")), out
        )  # it is equal
        assert content(out) == before

    def test_a_record_that_is_sealed_by_another_proves_nothing(self, artifact, bundle, tmp_path, monkeypatch):
        out = tmp_path / "out"
        monkeypatch.setenv("TRTPIPE_CACHE_KEY", "a secret of somebody else")
        publish_folder(bundle(artifact("model", model__onnx="m")), out)
        monkeypatch.delenv("TRTPIPE_CACHE_KEY")
        with pytest.raises(InputError, match="is there already"):
            publish_folder(bundle(artifact("model", model__onnx="m2")), out)
        assert content(out)["model.onnx"] == "m"

    @pytest.mark.parametrize("edit", [b'{"content": {"files": []}}', b"[" * 100_000, b"", b"\xff"])
    def test_a_record_that_is_none_is_not_overwritten(self, artifact, tmp_path, edit):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / RECORD).write_bytes(edit)
        with pytest.raises(InputError, match=r"\.trtpipe\.json"):
            publish_folder([artifact("model", model__onnx="m")], tmp_path / "out")
        assert (tmp_path / "out" / RECORD).read_bytes() == edit
        assert content(tmp_path / "out") == {}

    def test_a_file_of_the_users_is_not_overwritten(self, artifact, bundle, tmp_path):
        (tmp_path / "model.onnx").write_text("the source itself")
        with pytest.raises(InputError, match=r"model\.onnx: is there already"):
            publish_folder(bundle(artifact("model", model__onnx="m"), artifact("engine", sm86__plan="e")), tmp_path)
        assert {name for name in content(tmp_path) if "/" not in name} == {"model.onnx"}
        assert (tmp_path / "model.onnx").read_text() == "the source itself"

    def test_an_edited_file_is_neither_replaced_nor_removed(self, artifact, bundle, tmp_path):
        out = tmp_path / "out"
        publish_folder(bundle(artifact("model", model__onnx="m"), artifact("engine", sm86__plan="e")), out)
        (out / "sm86.plan").write_text("E")
        publish_folder(bundle(artifact("model", model__onnx="m2")), out)
        assert content(out)["sm86.plan"] == "E"
        (out / "model.onnx").write_text("edited")
        with pytest.raises(InputError, match=r"model\.onnx"):
            publish_folder(bundle(artifact("model", model__onnx="m3")), out)
        assert content(out)["model.onnx"] == "edited"

    def test_an_equal_file_of_the_users_stays_the_users(self, artifact, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "model.onnx").write_text("m")
        publish_folder([artifact("model", model__onnx="m")], out)
        with pytest.raises(InputError, match=r"model\.onnx"):
            publish_folder([artifact("model", model__onnx="m2")], out)

    @pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
    def test_what_is_no_file_is_left(self, artifact, tmp_path, kind):
        out, victim = tmp_path / "out", tmp_path / "victim"
        out.mkdir()
        victim.write_text("mine")
        path = out / "model.onnx"
        {
            "link": lambda: path.symlink_to(victim),
            "dangling": lambda: path.symlink_to(tmp_path / "nothing"),
            "folder": path.mkdir,
            "pipe": lambda: os.mkfifo(path),
        }[kind]()
        with pytest.raises(InputError, match="where a file is to be written"):
            publish_folder([artifact("model", model__onnx="m")], out)
        assert victim.read_text() == "mine"
        assert not (tmp_path / "nothing").exists()

    def test_single_stages_share_a_folder(self, artifact, bundle, tmp_path):
        out = tmp_path / "out"
        publish_folder([artifact("model", model__onnx="m")], out)
        publish_folder([artifact("lowered", lowered__onnx="l")], out)
        assert set(content(out)) == {"model.onnx", "lowered.onnx"}
        publish_folder(bundle(artifact("model", model__onnx="m"), artifact("engine", sm86__plan="e")), out)
        publish_folder([artifact("parity", parity__json="{}")], out)  # takes nothing away from the bundle
        assert set(content(out)) == {"model.onnx", "lowered.onnx", "sm86.plan", "parity.json", "manifest.json"}
        publish_folder([artifact("model", model__onnx="other")], out)
        assert set(content(out)) == {
            "model.onnx",
            "lowered.onnx",
            "sm86.plan",
            "parity.json",
        }  # its index was true no more

    def test_many_at_once_leave_one_whole_bundle(self, artifact, bundle, tmp_path):
        bundles = []
        for i in range(4):
            engine = artifact(f"engine{i}", **{f"e{i}__plan": "e"})
            made = bundle(artifact(f"model{i}", model__onnx=f"m{i}"), engine)
            folder = tmp_path / f"bundle{i}"
            made[0].folder.rename(folder)  # the next manifest would be written over this one
            bundles.append([dataclasses.replace(made[0], folder=folder), *made[1:]])
        out = tmp_path / "out"
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda made: publish_folder(made, out), bundles * 5))
        listed = [file for entry in Manifest.read(out / "manifest.json").artifacts for file in entry.files]
        assert all(FileEntry.of(out / file.name) == file for file in listed)
        assert set(content(out)) == {"manifest.json", *(file.name for file in listed)}

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
        assert [name for name in order if name != RECORD] == ["model.onnx", "sm89.plan", "manifest.json"]

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
        copy = publish.copy_new

        def full(source, target):
            if "sm89" in str(source):
                raise OSError(28, "No space left on device")
            return copy(source, target)

        monkeypatch.setattr(publish, "copy_new", full)
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
        monkeypatch.undo()
        publish_folder(bundle(artifact("model", model__onnx="new"), artifact("engine", sm89__plan="new")), out)

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
        assert [each for each in seen if each[0] != RECORD] == [("model.onnx", False), ("manifest.json", False)]

    @pytest.mark.parametrize("name", ["dead", "0123456789abcdef", "0123456789abcdef-" + 32 * "0", "cache"])
    def test_a_folder_that_is_only_called_like_one_of_ours_stays(self, artifact, tmp_path, name):
        (tmp_path / "out" / f".trtpipe-{name}").mkdir(parents=True)
        (tmp_path / "out" / f".trtpipe-{name}" / "notes").write_text("mine")
        publish_folder([artifact("model", model__onnx="m")], tmp_path / "out")
        assert content(tmp_path / "out") == {f".trtpipe-{name}/notes": "mine", "model.onnx": "m"}

    def test_what_a_killed_run_left_is_removed_and_the_next_one_succeeds(self, artifact, bundle, tmp_path):
        """Killed before and after every rename: what was ours stays provably ours."""
        out = tmp_path / "out"
        step = 0
        while True:
            publish_folder(bundle(artifact("model", model__onnx="old"), artifact("engine", sm86__plan="old")), out)
            new = bundle(artifact("model", model__onnx="new"), artifact("engine2", sm89__plan="new"))
            if (child := os.fork()) == 0:
                os._exit(killed_at(step, new, out))
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
                break
            publish_folder(new, out)
            assert set(content(out)) == {"manifest.json", "model.onnx", "sm89.plan"}, step
            assert [path.name for path in out.iterdir() if path.is_dir()] == []
            step += 1
        assert step >= 12


class TestFile:
    def test_a_file_name_keeps_the_side_files_beside_it(self, artifact, tmp_path):
        made = artifact("lowered", lowered__onnx="graph", lowered__onnx__json="record")
        where = publish_file(made, tmp_path / "out" / "net.onnx", (".onnx",))
        assert where == tmp_path / "out" / "net.onnx"
        assert content(tmp_path / "out") == {"net.onnx": "graph", "net.onnx.json": "record"}

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

    def test_the_file_that_was_named_is_replaced_whatever_it_is(self, artifact, tmp_path):
        (tmp_path / "net.onnx").write_text("old")
        publish_file(artifact("lowered", lowered__onnx="new"), tmp_path / "net.onnx", (".onnx",))
        assert (tmp_path / "net.onnx").read_text() == "new"

    def test_files_that_were_not_named_replace_only_what_is_ours(self, artifact, tmp_path):
        made = artifact("lowered", lowered__onnx="graph", lowered__onnx__json="record")
        beside = [artifact("simplified", simplified__onnx="s")]
        for mine in ("net.onnx.json", "simplified.onnx"):
            (tmp_path / mine).write_text("mine")
            with pytest.raises(InputError, match=mine.replace(".", r"\.")):
                publish_file(made, tmp_path / "net.onnx", (".onnx",), beside)
            assert (tmp_path / mine).read_text() == "mine"
            assert not (tmp_path / "net.onnx").exists()
            (tmp_path / mine).unlink()
        publish_file(made, tmp_path / "net.onnx", (".onnx",), beside)
        again = artifact("lowered", lowered__onnx="graph 2", lowered__onnx__json="record 2")
        publish_file(again, tmp_path / "net.onnx", (".onnx",), [artifact("simplified", simplified__onnx="s2")])
        assert {name: text for name, text in content(tmp_path).items() if "/" not in name} == {
            "net.onnx": "graph 2", "net.onnx.json": "record 2", "simplified.onnx": "s2",
        }  # fmt: skip

    def test_no_link_is_followed_and_no_device_replaced(self, artifact, tmp_path):
        (tmp_path / "victim").write_text("mine")
        (tmp_path / "net.onnx").symlink_to(tmp_path / "victim")
        with pytest.raises(InputError, match="a link"):
            publish_file(artifact("lowered", lowered__onnx="new"), tmp_path / "net.onnx", (".onnx",))
        os.mkfifo(tmp_path / "pipe.json")
        with pytest.raises(InputError, match="a device or a pipe"):
            write_file(tmp_path / "pipe.json", "{}")
        assert (tmp_path / "victim").read_text() == "mine"
        assert stat.S_ISFIFO((tmp_path / "pipe.json").stat().st_mode)


class TestText:
    def test_named_files_are_replaced_and_others_only_if_ours(self, tmp_path):
        profile, report = tmp_path / "tuned.toml", tmp_path / "tuned.json"
        profile.write_text("old")
        write_files({profile: "p", report: "r"}, named=(profile,))
        write_files({profile: "p2", report: "r2"}, named=(profile,))
        assert content(tmp_path) == {"tuned.toml": "p2", "tuned.json": "r2"}
        report.write_text("mine")
        with pytest.raises(InputError, match=r"tuned\.json"):
            write_files({profile: "p3", report: "r3"}, named=(profile,))
        assert content(tmp_path) == {"tuned.toml": "p2", "tuned.json": "mine"}

    def test_a_lone_named_file_leaves_nothing_beside_it(self, tmp_path):
        write_file(tmp_path / "baseline.json", "{}")
        assert [path.name for path in tmp_path.iterdir()] == ["baseline.json"]

    def test_beside_the_record_of_another_it_is_written_once(self, tmp_path, monkeypatch):
        """A bundle from another machine, to which a report is added here."""
        monkeypatch.setenv("TRTPIPE_CACHE_KEY", "a secret of somebody else")
        write_file(tmp_path / "first.html", "page", named=False)
        monkeypatch.delenv("TRTPIPE_CACHE_KEY")
        record = (tmp_path / RECORD).read_bytes()
        write_file(tmp_path / "report.html", "page", named=False)
        assert content(tmp_path) == {"first.html": "page", "report.html": "page"}
        with pytest.raises(InputError, match=r"report\.html") as caught:
            write_file(tmp_path / "report.html", "another page", named=False)
        assert "TRTPIPE_CACHE_KEY" in caught.value.remedy
        assert (tmp_path / RECORD).read_bytes() == record

    def test_links_of_predictable_names_lead_nowhere(self, tmp_path):
        (tmp_path / "victim").write_text("mine")
        for name in (".report.html.part", "report.html.tmp", ".trtpipe"):
            (tmp_path / name).symlink_to(tmp_path / "victim")
        write_file(tmp_path / "report.html", "page", named=False)
        assert (tmp_path / "victim").read_text() == "mine"
        assert (tmp_path / "report.html").read_text() == "page"


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
        write_file(tmp_path / "out" / "report.html", "about one", named=False)
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
