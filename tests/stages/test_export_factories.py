"""Factories of PyTorch modules: what can be wrong with them, and what is known of those that work."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from fixtures_stages import run_stage  # noqa: E402
from models import run  # noqa: E402

from trtpipe.config.job import Job  # noqa: E402
from trtpipe.config.profile import DeploymentProfile  # noqa: E402
from trtpipe.config.recipe import CalibrationRecipe  # noqa: E402
from trtpipe.config.settings import Settings  # noqa: E402
from trtpipe.config.source import FactorySource, ModuleSource  # noqa: E402
from trtpipe.errors import InputError  # noqa: E402
from trtpipe.exporter.request import TorchRequest  # noqa: E402
from trtpipe.exporter.torch_export import export_program  # noqa: E402
from trtpipe.progress import NullProgress  # noqa: E402
from trtpipe.stages.export import Export  # noqa: E402
from trtpipe.stages.stage import Inputs  # noqa: E402

PROFILE = {"x": {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}}


def request(workdir: Path, **options) -> TorchRequest:
    defaults = {"opset": 20, "shapes": {}, "input_names": (), "output_names": ()}
    return TorchRequest(workdir=str(workdir), **(defaults | options))


class TestFactories:
    """Everything that can be wrong with one shows before any export begins."""

    @pytest.fixture
    def load(self, workdir, tmp_path, monkeypatch):
        """Run the export task on a factory file, in this process."""
        safetensors = pytest.importorskip("safetensors")
        monkeypatch.setattr(safetensors, "safe_open", safetensors.safe_open)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.chdir(tmp_path)

        def run_task(code, function="make", module="net.py"):
            (tmp_path / "net.py").write_text("import torch\n" + textwrap.dedent(code))
            return export_program(request(workdir, module=module, function=function), lambda *report: None)

        yield run_task
        sys.modules.pop("net", None)

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("def make(): raise KeyError('gone')", "net.py:make raised KeyError: 'gone'"),
            ("def make(): raise SystemExit(3)", "net.py:make raised SystemExit: 3"),
            ("def make(size, depth=3): ...", r"net.py:make needs arguments \(size\)"),
            ("def make(): return 3", "net.py:make returned a int, not an nn.Module"),
            ("def make(): return torch.nn.ReLU(), 1, 2", "net.py:make returned 3 values"),
            ("def made(): ...\nclass Net: ...", "net.py has no function 'make'"),
            ("make = 3", "net.py:make is a int, not a function"),
            ("def make(:", "net.py raised SyntaxError when loaded"),
            ("import nowhere", "net.py raised ModuleNotFoundError when loaded: .*nowhere"),
            ("def make(): return torch.nn.Linear(4, 4)", "no example inputs, and no shapes for input"),
        ],
    )
    def test_what_is_wrong_is_said(self, load, code, words):
        with pytest.raises(InputError, match=words):
            load(code)

    def test_callables_are_suggested(self, load):
        with pytest.raises(InputError) as caught:
            load("def build(): ...\ndef _hidden(): ...\nclass Net(torch.nn.Module): ...")
        assert caught.value.remedy == "callables there: Net, build"

    def test_a_module_that_is_not_there(self, load):
        with pytest.raises(InputError, match=r"module 'nowhere\.net' cannot be imported"):
            load("", module="nowhere.net")

    def test_a_pt2_file_that_is_none(self, load, tmp_path):
        (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04 not really")
        with pytest.raises(InputError, match=r"net\.pt2: not a program saved by torch\.export\.save"):
            load("", function="", module=str(tmp_path / "net.pt2"))

    @pytest.mark.parametrize("spoiled", ["model.json", "archive_format"])
    def test_a_damaged_pt2_file_is_refused_with_the_cause(self, load, tmp_path, spoiled):
        torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.ones(2),)), tmp_path / "good.pt2")
        with ZipFile(tmp_path / "good.pt2") as good, ZipFile(tmp_path / "bad.pt2", "w") as bad:
            for name in good.namelist():
                bad.writestr(name, b"odd" if name.endswith(spoiled) else good.read(name))
        with pytest.raises(InputError, match=r"bad\.pt2: not a program saved by torch\.export\.save: ") as caught:
            load("", function="", module=str(tmp_path / "bad.pt2"))
        assert "warnings above" not in caught.value.message

    def test_one_example_need_not_be_in_a_tuple(self, load, workdir):
        reply = load("def make(**options): return torch.nn.ReLU(), torch.ones(2, 3)")
        assert "net.py" in [Path(path).name for path in reply.observed.files]
        assert [value.name for value in onnx.load(workdir / "model.onnx").graph.input] == ["input"]


FACTORY = """
import numpy as np
import torch
from safetensors.torch import load_file

from blocks import Block


def make():
    block = Block()
    weights = {
        "a": torch.load("a.pt", weights_only=True),
        "b": torch.from_numpy(np.load("b.npy")),
        "c": load_file("c.safetensors")["c"],
    }
    with torch.no_grad():
        for name, values in weights.items():
            getattr(block, name).copy_(values)
    return block, (torch.ones(1, 4),)
"""

BLOCK = """
import torch


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name in "abc":
            setattr(self, name, torch.nn.Parameter(torch.zeros(4)))

    def forward(self, x):
        return x * self.a + self.b - self.c
"""


NAMES = ("a.pt", "b.npy", "blocks.py", "c.safetensors", "net.py")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("project")
    (folder / "net.py").write_text(FACTORY)
    (folder / "blocks.py").write_text(BLOCK)
    torch.save(torch.full((4,), 2.0), folder / "a.pt")
    np.save(folder / "b.npy", np.full(4, 3, np.float32))
    save_file({"c": torch.full((4,), 5.0)}, folder / "c.safetensors")
    return folder


@pytest.fixture(scope="module")
def exported(project, tmp_path_factory):
    """(what was read, draft), made in a child process."""
    folder = tmp_path_factory.mktemp("result")
    source = FactorySource(str(project / "net.py"), "make")
    profile = DeploymentProfile.model_validate({"shapes": PROFILE})
    job = Job(source, profile, CalibrationRecipe(), "null", (), settings=Settings(cache_dir=folder / "cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        draft = run_stage(Export(), job, Inputs({}), folder, NullProgress())
    Export().check(draft, Inputs({}))
    return draft.observed, draft


class TestFactoryWithWeights:
    """One factory that reads weights in three ways and imports its neighbor."""

    def test_all_it_read_is_known_and_nothing_else(self, exported, project):
        read, _ = exported
        assert sorted(read.files) == [str(project / name) for name in NAMES]
        assert (read.unseen, read.listed, read.variables) == ((), (), ())

    def test_it_computes_with_these_weights(self, exported):
        _, draft = exported
        x = np.array([[1, 2, 3, 4]], np.float32)
        assert run(onnx.load(draft.path), {"x": x})["output"].tolist() == [[0, 2, 4, 6]]

    def test_no_bytecode_is_left_in_the_users_folder(self, exported, project):
        assert sorted(path.name for path in project.iterdir()) == sorted(NAMES)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_change_to_any_of_them_asks_for_another_export_and_a_new_time_does_not(self, exported, project, name):
        notes = {}

        class Notebook:
            remember = notes.__setitem__
            recall = staticmethod(notes.get)

        source = FactorySource(str(project / "net.py"), "make")
        learned = source.learn(Notebook(), exported[0], "model")
        os.utime(project / name, (1, 1))
        assert source.digest(Notebook()) == learned
        content = (project / name).read_bytes()
        try:
            (project / name).write_bytes(content + b"\n")
            assert source.digest(Notebook()) is None
        finally:
            (project / name).write_bytes(content)
        assert source.digest(Notebook()) == learned

    def test_the_same_module_in_hand_gives_the_same_bytes(
        self, exported, project, workdir, make_job, heard_all, monkeypatch
    ):
        """Another process, another hash seed, another folder."""
        monkeypatch.chdir(project)
        scope: dict = {}
        monkeypatch.syspath_prepend(project)
        exec(compile(FACTORY, "net.py", "exec"), scope)
        module, examples = scope["make"]()
        del sys.modules["blocks"]
        job = make_job(ModuleSource(module, examples), shapes=PROFILE)
        draft = run_stage(Export(), job, Inputs({}), workdir, heard_all)
        assert draft.path.read_bytes() == exported[1].path.read_bytes()
        assert draft.sidecar.read_bytes() == exported[1].sidecar.read_bytes()
