from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
import pytest
from models import conv_net, model, normal, save

from trtpipe.artifact import Observed
from trtpipe.config.recipe import DataSettings
from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource, Pt2Source, parse_source
from trtpipe.errors import InputError


class Notebook:
    """Remembers, in memory."""

    def __init__(self) -> None:
        self.pages = {}

    def remember(self, name, value):
        self.pages[name] = value

    def recall(self, name):
        return self.pages.get(name)


class TestParse:
    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("net.onnx", OnnxSource),
            ("folder/net.onnx", OnnxSource),
            ("no-suffix", OnnxSource),
            ("net.onnx.bak", OnnxSource),
        ],
    )
    def test_files(self, text, kind):
        assert parse_source(text) == kind(Path(text))

    def test_a_pt2_file(self, tmp_path):
        (tmp_path / "net.pt2").write_bytes(b"x")
        assert parse_source(str(tmp_path / "net.pt2")) == Pt2Source(tmp_path / "net.pt2")
        with pytest.raises(InputError, match=r"missing\.pt2: no such file"):
            parse_source("missing.pt2")

    def test_factories(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("net.py").touch()
        assert parse_source("net.py:make") == FactorySource("net.py", "make")
        assert parse_source("package.module:make") == FactorySource("package.module", "make")
        assert parse_source(f"{tmp_path}/net.py:make") == FactorySource(f"{tmp_path}/net.py", "make")

    def test_a_path_with_a_colon(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("run:last").mkdir()
        Path("run:last/net.py").touch()
        Path("odd:name").touch()
        assert parse_source("run:last/net.py:make") == FactorySource("run:last/net.py", "make")
        assert parse_source("odd:name") == OnnxSource(Path("odd:name"))

    @pytest.mark.parametrize(
        ("text", "words", "remedy"),
        [
            ("net.py", "which function makes the model", "net.py:my_factory"),
            ("net.pt", "pickled PyTorch file", "torch.export.save"),
            ("net.pth", "pickled PyTorch file", "factory"),
            ("missing.py:make", "no such file", "before the colon"),
            ("a-b.c:make", "neither a file nor a module", "package.module:factory"),
            ("C:make thing:make", "neither a file nor a module", "model.onnx"),
        ],
    )
    def test_what_is_none_of_them_says_what_to_write(self, text, words, remedy, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=words) as caught:
            parse_source(text)
        assert remedy in caught.value.remedy


class TestOnnx:
    def test_content_counts_and_nothing_else(self, tmp_path):
        first = OnnxSource(save(conv_net(), tmp_path / "a" / "net.onnx"))
        digest = first.digest(Notebook())
        copy = OnnxSource(save(conv_net(), tmp_path / "b" / "other.onnx"))
        os.utime(copy.path, (1, 1))
        assert copy.digest(Notebook()) == digest
        assert first.learn(Notebook(), Observed(), "unused") == digest
        changed = conv_net()
        changed.graph.node[0].name = "renamed"
        assert OnnxSource(save(changed, tmp_path / "c.onnx")).digest(Notebook()) != digest

    def test_external_data_counts(self, tmp_path):
        proto = model("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=normal(64, 64))
        onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
        source = OnnxSource(tmp_path / "m.onnx")
        before = source.digest(Notebook())
        data = bytearray((tmp_path / "w.bin").read_bytes())
        data[100] ^= 1
        (tmp_path / "w.bin").write_bytes(data)
        assert source.digest(Notebook()) != before

    def test_a_file_that_is_none(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            OnnxSource(tmp_path / "missing.onnx").digest(Notebook())


def test_pt2_content_counts(tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"one")
    (tmp_path / "b.pt2").write_bytes(b"one")
    (tmp_path / "c.pt2").write_bytes(b"two")
    a, b, c = (Pt2Source(tmp_path / f"{name}.pt2").digest(Notebook()) for name in "abc")
    assert a == b != c
    assert Pt2Source(tmp_path / "a.pt2").learn(Notebook(), Observed(), "unused") == a


def test_a_module_in_hand_is_what_it_exports_to():
    source = ModuleSource(object(), ())
    assert source.label == "object"
    assert source.digest(Notebook()) is None
    learned = [source.learn(Notebook(), Observed(), digest) for digest in ("a", "a", "b")]
    assert learned[0] == learned[1] != learned[2]


FILES = ("net.py", "layers.py", "weights/w.npz")


class TestFactory:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "project"
        (folder / "weights").mkdir(parents=True)
        for name in FILES:
            (folder / name).write_text(name)
        return folder

    def read(self, folder):
        return Observed(files=tuple(str(folder / name) for name in FILES), listed=(str(folder / "weights"),))

    def source(self, folder):
        return FactorySource(str(folder / "net.py"), "make")

    def test_what_was_never_run_is_unknown(self, folder):
        assert self.source(folder).digest(Notebook()) is None

    def test_it_is_known_while_nothing_it_read_has_changed(self, folder):
        notebook = Notebook()
        learned = self.source(folder).learn(notebook, self.read(folder), "model")
        assert self.source(folder).digest(notebook) == learned
        for name in FILES:
            os.utime(folder / name, (1, 1))
        assert self.source(folder).digest(notebook) == learned

    @pytest.mark.parametrize("name", ["net.py", "layers.py", "weights/w.npz"])
    def test_one_change_or_a_missing_file_and_it_is_not(self, folder, name):
        notebook = Notebook()
        self.source(folder).learn(notebook, self.read(folder), "model")
        (folder / name).write_text("changed")
        assert self.source(folder).digest(notebook) is None
        (folder / name).unlink()
        assert self.source(folder).digest(notebook) is None
        (folder / name).write_text(name)
        assert self.source(folder).digest(notebook) is not None

    def test_another_function_of_the_file_is_another_source(self, folder):
        notebook = Notebook()
        learned = self.source(folder).learn(notebook, self.read(folder), "model")
        other = FactorySource(str(folder / "net.py"), "make_large")
        assert other.digest(notebook) is None
        assert other.learn(notebook, self.read(folder), "larger model") != learned
        assert self.source(folder).digest(notebook) == learned

    def test_what_exports_to_the_same_is_the_same_source_wherever_it_lies(self, folder, tmp_path):
        learned = self.source(folder).learn(Notebook(), self.read(folder), "model")
        moved = tmp_path / "elsewhere" / "project2"
        shutil.copytree(folder, moved)
        assert self.source(moved).learn(Notebook(), self.read(moved), "model") == learned
        assert self.source(moved).learn(Notebook(), self.read(moved), "another") != learned

    def test_the_data_for_its_inputs_counts_by_its_place_and_not_by_its_spelling(self, folder, monkeypatch):
        def source(data):
            return FactorySource(str(folder / "net.py"), "make", DataSettings(source=data))

        notebook = Notebook()
        monkeypatch.chdir(folder)
        learned = source("weights/../data.py:feeds").learn(notebook, self.read(folder), "model")
        assert source(f"{folder}/data.py:feeds").digest(notebook) == learned
        monkeypatch.chdir(folder / "weights")
        assert source("data.py:feeds").digest(notebook) is None

    @pytest.mark.parametrize("changed", [{"batch": 2}, {"labels": "y"}, {"image": {"resize": 9}}, {"samples": 3}])
    def test_so_does_how_it_is_read(self, folder, changed):
        def source(**settings):
            data = DataSettings.model_validate({"source": "data", "image": {"resize": 8}, **settings})
            return FactorySource(str(folder / "net.py"), "make", data)

        notebook = Notebook()
        learned = source().learn(notebook, self.read(folder), "model")
        assert source().digest(notebook) == learned
        assert source(**changed).digest(notebook) is None

    def test_a_new_file_in_a_folder_it_listed_asks_for_another_run(self, folder):
        notebook = Notebook()
        self.source(folder).learn(notebook, self.read(folder), "model")
        (folder / "weights" / "newer.npz").touch()
        assert self.source(folder).digest(notebook) is None

    def test_what_cannot_be_followed_runs_again_and_is_what_it_exported_to(self, folder):
        notebook = Notebook()
        known = self.source(folder).learn(notebook, self.read(folder), "model")
        unseen = self.read(folder).model_copy(update={"unseen": ("another program",)})
        assert self.source(folder).learn(notebook, unseen, "model") == known
        assert self.source(folder).digest(notebook) is None
        assert self.source(folder).learn(notebook, unseen, "other weights") != known

    @pytest.mark.parametrize("page", [[["net.py", "0"]], {}, {"observed": 3}, {"observed": {}}, "x", 3])
    def test_a_memory_of_another_shape_is_none(self, folder, page):
        notebook = Notebook()
        self.source(folder).learn(notebook, self.read(folder), "model")
        notebook.pages = dict.fromkeys(notebook.pages, page)
        assert self.source(folder).digest(notebook) is None

    def test_a_relative_path_is_the_same_file(self, folder, monkeypatch):
        notebook = Notebook()
        learned = self.source(folder).learn(notebook, self.read(folder), "model")
        monkeypatch.chdir(folder)
        assert FactorySource("net.py", "make").digest(notebook) == learned

    def test_a_module_is_looked_for_from_the_working_folder(self, folder, monkeypatch):
        notebook = Notebook()
        monkeypatch.chdir(folder)
        source = FactorySource("net", "make")
        assert source.file is None
        learned = source.learn(notebook, self.read(folder), "model")
        assert source.digest(notebook) == learned
        monkeypatch.chdir(folder.parent)
        assert source.digest(notebook) is None

    def test_labels(self, folder):
        assert FactorySource("pkg.net", "make").label == "pkg.net:make"


def test_other_data_may_give_a_factory_other_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("")
    notes: dict = {}

    class Notebook:
        remember = staticmethod(notes.__setitem__)
        recall = staticmethod(notes.get)

    plain = FactorySource("net.py", "make")
    first, second = (FactorySource("net.py", "make", DataSettings(source=name)) for name in ("a.npz", "b.npz"))
    learned = first.learn(Notebook(), Observed(files=(str(tmp_path / "net.py"),)), "")
    assert first.digest(Notebook()) == learned
    assert second.digest(Notebook()) is None
    assert plain.digest(Notebook()) is None
    assert (
        plain.learn(Notebook(), Observed(files=(str(tmp_path / "net.py"),)), "") == learned
    )  # where the data was not read, it does not count
