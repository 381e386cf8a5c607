"""Recurrent layers of real PyTorch modules, exported in this process."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
patches = pytest.importorskip("torch.export._patches", reason="this torch writes recurrent layers out step by step")
if not hasattr(patches, "register_gru_while_loop_decomposition"):
    pytest.skip("this torch writes recurrent layers out step by step", allow_module_level=True)

from models import run  # noqa: E402

from trtpipe.exporter.request import TorchRequest  # noqa: E402
from trtpipe.exporter.torch_export import export_module  # noqa: E402

nn = torch.nn


class Tagger(nn.Module):
    """Tokens -> classes, by a recurrent layer over an embedding."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(20, 6), layer, nn.Linear(width, 3)

    def forward(self, tokens):
        return self.head(self.layer(self.table(tokens))[0])


def exported(module: nn.Module, workdir, shapes) -> onnx.ModelProto:
    request = TorchRequest(
        module="", function="", workdir=str(workdir), opset=20, shapes=shapes, input_names=(), output_names=()
    )
    export_module(module, (torch.arange(10).reshape(2, 5),), request)
    return onnx.load(workdir / "model.onnx")


LAYERS = {
    "GRU": lambda: (nn.GRU(6, 5, bidirectional=True, batch_first=True), 10),
    "LSTM": lambda: (nn.LSTM(6, 5, batch_first=True), 5),
}


@pytest.mark.parametrize("operator", LAYERS)
def test_a_recurrent_layer_takes_sequences_of_any_length(operator, workdir):
    torch.manual_seed(0)
    module = Tagger(*LAYERS[operator]()).eval()
    proto = exported(module, workdir, {"tokens": ((1, 2), (2, 5), (4, 30))})
    assert operator in {node.op_type for node in proto.graph.node}
    for shape in ((1, 2), (3, 17)):
        tokens = torch.randint(0, 20, shape)
        expected = module(tokens).detach().numpy()
        np.testing.assert_allclose(run(proto, {"tokens": tokens.numpy()})["output"], expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_left_changed(workdir):
    kernels = dict(torch.ops.aten.gru.input.py_kernels)
    exported(Tagger(nn.GRU(6, 5, batch_first=True), 5).eval(), workdir, {})
    assert torch.ops.aten.gru.input.py_kernels == kernels
