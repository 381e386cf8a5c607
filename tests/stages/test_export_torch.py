"""Exports of real PyTorch modules: in this process, and from factories in a process of their own."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from models import run, weights_of  # noqa: E402

from trtpipe.errors import InputError, StageError  # noqa: E402
from trtpipe.job import Inputs, Job  # noqa: E402
from trtpipe.profile import DeploymentProfile  # noqa: E402
from trtpipe.progress import Silent  # noqa: E402
from trtpipe.recipe import CalibrationRecipe  # noqa: E402
from trtpipe.settings import Settings  # noqa: E402
from trtpipe.source import FactorySource, ModuleSource  # noqa: E402
from trtpipe.stages.export import Export, TorchRequest  # noqa: E402
from trtpipe.stages.export_torch import export_module, export_program  # noqa: E402
from trtpipe.stages.facts import ExportFacts  # noqa: E402

nn = torch.nn
BATCHES = ((1, 4), (2, 4), (8, 4))
PROFILE = {"x": {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}}


def request(workdir: Path, **options) -> TorchRequest:
    defaults = {"module": "", "function": "", "opset": 20, "shapes": {}, "input_names": (), "output_names": ()}
    return TorchRequest(workdir=str(workdir), **(defaults | options))


def export(module, examples, workdir: Path, **options) -> tuple[onnx.ModelProto, ExportFacts]:
    reply = export_module(module, examples, request(workdir, **options))
    assert reply.names[0] == "model.onnx"
    proto = onnx.load(workdir / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    return proto, ExportFacts.read(workdir / "model.onnx.json")


class Linear(nn.Module):
    """Something to subclass: y = Wx + b."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x)


class Network(nn.Module):
    """Two inputs that share their batch, a dropout, a batch norm, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)

    def forward(self, image, gain):
        features = self.drop(torch.relu(self.norm(self.conv(image)))).mean((2, 3)) * gain
        return {"logits": self.head(features), "features": features}


SHAPES = {"image": ((1, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8)), "gain": ((1, 4), (2, 4), (8, 4))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(module, exported graph, facts, folder): examples have a batch of 1, which must not become a constant."""
    folder = tmp_path_factory.mktemp("network")
    module = Network()
    module.train()
    module.norm.eval()
    examples = (torch.randn(1, 3, 8, 8), torch.randn(1, 4))
    return module, *export(module, examples, folder, shapes=SHAPES), folder


class TestNetwork:
    def test_names_are_those_of_forward_and_of_the_dict(self, made):
        _, proto, facts, _ = made
        assert [value.name for value in proto.graph.input] == ["image", "gain"]
        assert [value.name for value in proto.graph.output] == ["logits", "features"]
        assert facts.exporter == f"torch {torch.__version__} (torch.export)"
        assert facts.opset == 20

    def test_one_batch_for_both(self, made):
        _, _, facts, _ = made
        assert [spec.shape for spec in facts.contract.inputs] == [("batch", 3, 8, 8), ("batch", 4)]
        assert [spec.shape for spec in facts.contract.outputs] == [("batch", 5), ("batch", 4)]

    @pytest.mark.parametrize("batch", [1, 2, 7])
    def test_it_computes_what_pytorch_computes_in_eval_mode(self, made, batch):
        _, proto, _, _ = made
        image, gain = torch.randn(batch, 3, 8, 8), torch.randn(batch, 4)
        expected = Network().eval()(image, gain)
        found = run(proto, {"image": image.numpy(), "gain": gain.numpy()})
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values.detach(), rtol=1e-4, atol=1e-5)

    def test_the_module_gets_its_training_state_back(self, made):
        module, *_ = made
        assert {name: part.training for name, part in module.named_modules()} == {
            "": True, "conv": True, "norm": False, "drop": True, "head": True
        }  # fmt: skip

    def test_facts_tell_how_close_it_is(self, made):
        _, proto, facts, _ = made
        assert [difference.output for difference in facts.parity] == ["logits", "features"]
        assert all(0 <= difference.mean_abs <= difference.max_abs < 1e-4 for difference in facts.parity)
        assert facts.weight_bytes == sum(weight.nbytes for weight in weights_of(proto).values())

    def test_nothing_of_this_machine_is_in_the_bytes(self, made):
        *_, folder = made
        for name in ("model.onnx", "model.onnx.json"):
            content = (folder / name).read_bytes()
            for trace in (str(folder), str(Path.home()), sys.prefix, "test_export_torch", "site-packages", 'File "'):
                assert trace.encode() not in content, trace

    def test_exporting_again_elsewhere_gives_the_same_bytes(self, made, tmp_path):
        *_, folder = made
        export(Network(), (torch.ones(2, 3, 8, 8), torch.ones(2, 4)), tmp_path, shapes=SHAPES)
        assert (tmp_path / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


class TestNames:
    def test_the_users_own(self, workdir):
        proto, _ = export(
            Linear(), (torch.ones(2, 4),), workdir, input_names=("pixels",), output_names=("scores",),
            shapes={"pixels": BATCHES},
        )  # fmt: skip
        assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["pixels", "scores"]
        assert run(proto, {"pixels": np.ones((5, 4), np.float32)})["scores"].shape == (5, 4)

    def test_names_that_something_inside_has_already(self, workdir):
        module = Linear()
        proto, _ = export(module, (torch.ones(2, 4),), workdir, input_names=("linear",), output_names=("layer.weight",))
        assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["linear", "layer.weight"]
        x = np.ones((2, 4), np.float32)
        np.testing.assert_allclose(
            run(proto, {"linear": x})["layer.weight"], module(torch.from_numpy(x)).detach(), rtol=1e-5
        )

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"input_names": ("a", "b")}, r"2 input names were given \(a, b\), the model has 1 inputs"),
            ({"output_names": ("a", "b")}, "2 output names were given"),
            ({"output_names": ("x",)}, "two inputs or outputs are called 'x'"),
        ],
    )
    def test_names_that_do_not_fit(self, workdir, options, words):
        with pytest.raises(InputError, match=words):
            export(Linear(), (torch.ones(2, 4),), workdir, **options)
        assert list(workdir.iterdir()) == []

    def test_outputs_of_other_structures_are_numbered(self, workdir):
        class Nested(Linear):
            def forward(self, x):
                return [self.layer(x), (x + 1, {"a": x * 2})]

        proto, _ = export(Nested(), (torch.ones(2, 4),), workdir)
        assert [value.name for value in proto.graph.output] == ["output", "output_1", "output_2"]
        assert run(proto, {"x": np.ones((2, 4), np.float32)})["output_2"].tolist() == [[2] * 4] * 2

    def test_outputs_that_are_none_are_left_out(self, workdir):
        class Transformer(Linear):
            def forward(self, x):
                return {"loss": None, "logits": self.layer(x), "cache": None, "hidden": x * 2}

        proto, facts = export(Transformer(), (torch.ones(2, 4),), workdir)
        assert [value.name for value in proto.graph.output] == ["logits", "hidden"]
        assert [difference.output for difference in facts.parity] == ["logits", "hidden"]


class TestExamples:
    def test_shapes_alone_are_enough_and_defaults_stay(self, workdir):
        class Scaled(Linear):
            def forward(self, x, scale=2.0):
                return self.layer(x) * scale

        proto, facts = export(Scaled(), None, workdir, shapes={"x": BATCHES})
        assert [str(spec) for spec in facts.contract.inputs] == ["x: float32[batchx4]"]
        x = torch.randn(3, 4)
        np.testing.assert_allclose(run(proto, {"x": x.numpy()})["output"], Scaled()(x).detach(), rtol=1e-5)

    def test_integer_and_boolean_inputs(self, workdir):
        class Embed(nn.Module):
            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(10, 4)

            def forward(self, ids, mask):
                return self.table(ids) * mask.unsqueeze(-1), ids + 1

        shapes = dict.fromkeys(("ids", "mask"), ((1, 2), (2, 6), (4, 16)))
        examples = (torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.bool))
        proto, facts = export(Embed(), examples, workdir, shapes=shapes)
        assert [spec.dtype for spec in facts.contract.inputs] == ["int64", "bool"]
        assert [spec.shape for spec in facts.contract.inputs] == [("batch", "ids_1")] * 2
        found = run(proto, {"ids": np.array([[3, 4, 5]]), "mask": np.array([[True, False, True]])})
        assert not found["output"][0, 1].any()
        assert found["output_1"].tolist() == [[4, 5, 6]]

    @pytest.mark.parametrize(
        ("examples", "options", "words"),
        [
            (None, {}, "no example inputs, and no shapes for x, y"),
            (None, {"shapes": {"y": BATCHES}}, "no example inputs, and no shapes for x"),
            ((torch.ones(2, 4),), {}, r"forward fails on its example inputs \(x \[2, 4\]\): .*'y'"),
            ((torch.ones(2, 4),) * 3, {}, "forward takes 2 inputs, 3 examples were given"),
            ((torch.ones(2, 4), 3), {}, "example input 'y' is a int, not a tensor"),
            ((np.ones((2, 4)), torch.ones(2, 4)), {}, "example input 'x' is a ndarray, not a tensor"),
            (
                (torch.ones(2, 3), torch.ones(2, 4)),
                {},
                r"forward fails on its example inputs \(x \[2, 3\], y \[2, 4\]\)",
            ),
            (
                (torch.ones(2, 4), torch.ones(2, 4)),
                {"shapes": {"x": ((1, 4, 1), (2, 4, 1), (8, 4, 1))}},
                "shapes for 'x' have rank 3, its example input has rank 2",
            ),
        ],
    )
    def test_what_is_missing_or_does_not_fit(self, workdir, examples, options, words):
        class Sum(Linear):
            def forward(self, x, y):
                return self.layer(x) + y

        module = Sum()
        with pytest.raises(InputError, match=words):
            export(module, examples, workdir, **options)
        assert module.training
        assert list(workdir.iterdir()) == []

    def test_something_else_than_a_module(self, workdir):
        with pytest.raises(InputError, match=r"expected an nn\.Module, got dict"):
            export({"weights": 1}, None, workdir)

    def test_tensors_of_another_layout(self, workdir):
        x = torch.randn(4, 2).t()
        proto, _ = export(Linear(), (x,), workdir)
        np.testing.assert_allclose(
            run(proto, {"x": x.numpy()})["output"], Linear()(x).detach(), rtol=1e-5
        )  # fmt: skip


class TestCannot:
    def test_control_flow_that_depends_on_values(self, workdir):
        class Branches(Linear):
            def forward(self, x):
                return self.layer(x) if x.sum() > 0 else x

        module = Branches()
        with pytest.raises(StageError, match=r"torch cannot export Branches: .*data-dependent") as caught:
            export(module, (torch.ones(2, 4),), workdir)
        assert "control flow" in caught.value.remedy
        assert "\n" not in caught.value.message
        assert module.training

    def test_a_dimension_that_the_code_fixes(self, workdir):
        class Fixed(Linear):
            def forward(self, x):
                if x.shape[0] == 2:
                    return self.layer(x)
                return x

        with pytest.raises(StageError, match=r"dimension 0 of input 'x' is 1\.\.8 in the profile, .* fixes it to 2"):
            export(Fixed(), (torch.ones(2, 4),), workdir, shapes={"x": BATCHES})
        assert list(workdir.iterdir()) == []

    def test_results_that_differ_every_time(self, workdir):
        class Noisy(Linear):
            def forward(self, x):
                return self.layer(x) + torch.randn(2, 4)

        with pytest.raises(StageError, match="the exported model differs from PyTorch: output 'output' by"):
            export(Noisy(), (torch.ones(2, 4),), workdir)


def test_an_exported_program(workdir, tmp_path):
    """What ``torch.export.save`` wrote keeps its own names and dimensions."""
    module = Linear().eval()
    dim = torch.export.Dim("n", min=1, max=8)
    program = torch.export.export(module, (torch.ones(2, 4),), dynamic_shapes=({0: dim},))
    proto, facts = export(program, None, workdir, shapes={"x": BATCHES})
    assert [str(spec) for spec in facts.contract.inputs] == ["x: float32[batchx4]"]
    assert facts.parity == ()
    x = torch.randn(5, 4)
    np.testing.assert_allclose(run(proto, {"x": x.numpy()})["output"], module(x).detach(), rtol=1e-5)
    fixed = torch.export.export(module, (torch.ones(2, 4),))
    with pytest.raises(StageError, match="fixes it to 2"):
        export(fixed, None, workdir, shapes={"x": BATCHES})


class TestFactories:
    """Everything that can be wrong with one shows before any export begins."""

    @pytest.fixture
    def load(self, workdir, tmp_path, monkeypatch):
        """Run the export task on a factory file, in this process."""
        safetensors = pytest.importorskip("safetensors")
        monkeypatch.setattr(safetensors, "safe_open", safetensors.safe_open)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "modules", dict(sys.modules))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.chdir(tmp_path)

        def run_task(code, function="make", module="net.py"):
            (tmp_path / "net.py").write_text("import torch\n" + textwrap.dedent(code))
            return export_program(request(workdir, module=module, function=function), lambda *report: None)

        return run_task

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

    def test_one_example_need_not_be_in_a_tuple(self, load, workdir):
        reply = load("def make(**options): return torch.nn.ReLU(), torch.ones(2, 3)")
        assert [Path(path).name for path in reply.files_read] == ["net.py"]
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
    """(files read, draft), made in a child process."""
    folder = tmp_path_factory.mktemp("result")
    source = FactorySource(str(project / "net.py"), "make")
    profile = DeploymentProfile.model_validate({"shapes": PROFILE})
    job = Job(source, profile, CalibrationRecipe(), "null", (), Settings(cache_dir=folder / "cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        draft, read = Export().run(job, Inputs({}), folder, Silent())
    Export().check(draft, Inputs({}))
    return read, draft


class TestFactoryWithWeights:
    """One factory that reads weights in three ways and imports its neighbour."""

    def test_all_it_read_is_known_and_nothing_else(self, exported, project):
        read, _ = exported
        assert sorted(read) == [project / name for name in NAMES]

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
        learned = source.learn(Notebook(), exported[0], "")
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
        monkeypatch.setattr(sys, "modules", dict(sys.modules))
        exec(compile(FACTORY, "net.py", "exec"), scope)
        module, examples = scope["make"]()
        job = make_job(ModuleSource(module, examples), shapes=PROFILE)
        draft, _ = Export().run(job, Inputs({}), workdir, heard_all)
        assert draft.path.read_bytes() == exported[1].path.read_bytes()
        assert draft.sidecar.read_bytes() == exported[1].sidecar.read_bytes()
