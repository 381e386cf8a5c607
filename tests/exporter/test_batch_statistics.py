"""Batch normalization by the statistics of the batch, in modules and in programs that came exported."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch_exports import assert_computes, export  # noqa: E402

nn = torch.nn
SHAPES = {"x": ((2, 3, 5, 5), (4, 3, 5, 5), (8, 3, 5, 5))}
X = torch.randn(4, 3, 5, 5) * 3 + 2


class ByFunction(nn.Module):
    """Writes its running statistics, and does not read them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("variance", torch.ones(3))

    def forward(self, x):
        return nn.functional.batch_norm(x, self.mean, self.variance, training=True)


def affine():
    norm = nn.BatchNorm2d(3, track_running_stats=False, eps=1e-2)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    return norm


MODULES = {"function": ByFunction, "without running statistics": affine}


@pytest.mark.parametrize("name", MODULES)
def test_of_a_module(name, workdir):
    module = MODULES[name]().eval()
    proto, record = export(module, (X,), workdir, shapes=SHAPES, input_names=("x",))
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert any("statistics of the batch" in note for note in record.notes)
    for count in (2, 7):
        batch = torch.randn(count, 3, 5, 5) - 1
        assert_computes(proto, [batch], module(batch))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's, of its own functional program
@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_of_a_saved_program(name, functional, workdir):
    module = MODULES[name]().eval()
    program = torch.export.export(module, (X,))
    proto, _ = export(program.run_decompositions({}) if functional else program, None, workdir)
    assert_computes(proto, [X - 1], module(X - 1))


def test_running_statistics_stay_one_operator(workdir):
    proto, record = export(nn.BatchNorm2d(3), (X,), workdir)
    assert record.notes == ()
    assert_computes(proto, [X], nn.BatchNorm2d(3).eval()(X))
