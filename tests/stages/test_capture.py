from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from fixtures_stages import run_stage  # noqa: E402

from trtpipe.backends.torch_tensorrt import TorchTensorRT  # noqa: E402
from trtpipe.config.build_request import NotNeeded  # noqa: E402
from trtpipe.config.source import ModuleSource, OnnxSource  # noqa: E402
from trtpipe.engine.record import ProgramRecord  # noqa: E402
from trtpipe.errors import BuildError, InputError, InternalError, StageError  # noqa: E402
from trtpipe.stages import capture  # noqa: E402
from trtpipe.stages.capture import Capture  # noqa: E402
from trtpipe.stages.stage import Inputs  # noqa: E402

STAGE = Capture()
SHAPES = {"x": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [8, 3, 8, 8]},
          "bias": {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}}  # fmt: skip
#: An export takes seconds: the second of two formats that the code does not tell apart waits for the long sweeps.
SIXTEEN_BITS = pytest.mark.parametrize(
    ("precision", "dtype", "eps"),
    [("fp16", "float16", 2**-10), pytest.param("bf16", "bfloat16", 2**-7, marks=pytest.mark.slow)],
)
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.scale, self.head = torch.nn.LayerNorm(8), torch.nn.Linear(8, 4)

    def forward(self, x, bias):
        found = self.scale(torch.relu(self.norm(self.conv(x))).mean((2, 3))) + torch.ones(8)
        return {"logits": self.head(found) + bias, "features": found}

def net():
    return Net(), (torch.ones(2, 3, 8, 8), torch.ones(2, 4))

class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.lstm = torch.nn.GRU(4, 8, batch_first=True), torch.nn.LSTM(8, 8, batch_first=True)
        self.plain = torch.nn.RNN(8, 4, batch_first=True)

    def forward(self, x):
        return self.plain(self.lstm(self.gru(x)[0])[0])[0]

def recurrent():
    return Recurrent(), (torch.ones(2, 5, 4),)

class Pairs(torch.nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], x.shape[1] // 2, 2).sum(2)

def pairs():
    return Pairs(), (torch.ones(2, 8),)
"""


@pytest.fixture(autouse=True)
def torch_tensorrt(monkeypatch):
    """The package itself is not needed to write the program."""
    monkeypatch.setattr(capture, "load_backend", lambda name: TorchTensorRT())


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:net"


@pytest.fixture
def go(make_job, workdir, heard_all):
    def capture(source, **options):
        job = make_job(source, **({"shapes": SHAPES} | options))
        draft = run_stage(STAGE, job, Inputs({}), workdir, heard_all)
        STAGE.check(draft, Inputs({}))
        assert draft.names == ("program.pt2", "program.pt2.json")
        return draft.path, ProgramRecord.read(draft.sidecar), draft.observed.files

    return capture


def test_a_factory_becomes_a_program(go, factory, tmp_path):
    path, record, read = go(factory)
    assert [str(spec) for spec in record.contract.inputs] == ["x: float32[batchx3x8x8]", "bias: float32[batchx4]"]
    assert [str(spec) for spec in record.contract.outputs] == ["logits: float32[batchx4]", "features: float32[batchx8]"]
    assert str(tmp_path / "net.py") in read
    assert str(tmp_path).encode() not in path.read_bytes(), "nothing of this machine"


@SIXTEEN_BITS
def test_sixteen_bits_lie_in_the_program(go, factory, precision, dtype, eps):
    path, record, _ = go(factory, precision=precision)
    assert record.precision == dtype
    assert {spec.dtype for spec in (*record.contract.inputs, *record.contract.outputs)} == {"float32"}
    program = torch.export.load(path)
    weights = {value.dtype for name, value in program.state_dict.items() if value.is_floating_point()}
    assert weights == {getattr(torch, dtype)}
    scope: dict = {}
    exec(NET, scope)
    module, _ = scope["net"]()
    feed = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 4)
    wanted = module.eval()(*feed)
    found = program.module()(*feed)
    for name in ("logits", "features"):
        scale = wanted[name].abs().max()
        assert 0 < (found[name] - wanted[name]).abs().max() < 16 * eps * scale


@SIXTEEN_BITS
def test_recurrent_layers_begin_with_states_in_16_bits_too(go, factory, precision, dtype, eps):
    shapes = {"x": {"min": [1, 5, 4], "opt": [2, 5, 4], "max": [8, 5, 4]}}
    path, record, _ = go(factory.replace(":net", ":recurrent"), precision=precision, shapes=shapes)
    assert record.contract.inputs[0].shape == ("batch", 5, 4)
    program = torch.export.load(path)
    narrow = getattr(torch, dtype)
    for node in program.graph.nodes:  # TensorRT multiplies no float32 by 16 bits
        if node.op == "call_function" and node.target in (torch.ops.aten.linear.default, torch.ops.aten.addmm.default):
            assert {value.meta["val"].dtype for value in node.all_input_nodes} == {narrow}
    scope: dict = {}
    exec(NET, scope)
    module, _ = scope["recurrent"]()
    feed = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    wanted, found = module.eval()(feed), program.module()(feed)
    assert 0 < (found - wanted).abs().max() < 16 * eps * wanted.abs().max()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_length_that_the_code_fixes_cannot_vary(go, factory, precision):
    shapes = {"x": {"min": [1, 2, 4], "opt": [2, 5, 4], "max": [8, 20, 4]}}
    with pytest.raises(StageError, match=r"dimension 1 of input 'x' is 2\.\.20 in the profile, .* fixes it to 5"):
        go(factory.replace(":net", ":recurrent"), precision=precision, shapes=shapes)


def test_16_bits_are_written_in_at_the_sizes_the_program_was_exported_with(go, factory):
    """A length of 2, the smallest, would let torch settle ``length // 2`` as 1."""
    path, record, _ = go(
        factory.replace(":net", ":pairs"),
        precision="fp16",
        shapes={"x": {"min": [1, 2], "opt": [2, 8], "max": [8, 20]}},
    )
    assert record.contract.inputs[0].shape == ("batch", "x_1")
    found = torch.export.load(path).module()(torch.arange(12.0).reshape(2, 6))
    assert found.tolist() == [[1, 5, 9], [13, 17, 21]]


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "fp16"])
def test_equal_sources_give_equal_bytes(go, factory, precision):
    first = go(factory, precision=precision)[0].read_bytes()
    assert go(factory, precision=precision)[0].read_bytes() == first


def test_a_program_in_a_file(go, factory, tmp_path):
    path, _, _ = go(factory)
    saved = path.rename(tmp_path / "saved.pt2")
    _, record, _ = go(saved, precision="fp16", export={"input_names": ["image", "shift"], "output_names": ["a", "b"]})
    assert [spec.name for spec in record.contract.inputs] == ["image", "shift"]
    assert [spec.name for spec in record.contract.outputs] == ["a", "b"]
    assert record.contract.inputs[0].shape == ("batch", 3, 8, 8)
    with pytest.raises(InputError, match=r"1 input names were given \(image\), the model has 2 inputs"):
        go(saved, export={"input_names": ["image"]})


def test_a_module_in_hand_keeps_its_weights_and_its_mode(go):
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout()).train()
    before = module[0].weight.detach().numpy().copy()
    go(ModuleSource(module, (torch.ones(2, 4),)), shapes=(), precision="fp16")
    assert module.training
    np.testing.assert_array_equal(module[0].weight.detach().numpy(), before)


def test_what_is_no_program(go, tmp_path):
    with pytest.raises(BuildError, match="from a PyTorch program, and this is an ONNX graph") as caught:
        go(OnnxSource(tmp_path / "net.onnx"))
    assert "factory or a .pt2" in caught.value.remedy
    with pytest.raises(InternalError):
        go(None)


def test_its_key(make_job, factory):
    base = STAGE.settings(make_job(factory, shapes=SHAPES))
    assert base == STAGE.settings(make_job(factory, shapes=SHAPES, export={"opset": 18}, keep=["a"]))
    assert base != STAGE.settings(make_job(factory, shapes=SHAPES, precision="fp16"))
    assert base != STAGE.settings(make_job(factory, shapes=()))


def test_others_do_without(make_job, monkeypatch, factory):
    monkeypatch.undo()
    assert STAGE.settings(make_job(factory)) == NotNeeded(reason="null compiles the lowered graph")
