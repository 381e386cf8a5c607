"""Programs that came exported: interfaces by the names of their arguments, and runs on feeds."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_exports import assert_computes, export, inputs_of, outputs_of  # noqa: E402

from trtpipe.errors import StageError  # noqa: E402
from trtpipe.exporter.torch_export import run_module  # noqa: E402

nn = torch.nn
X, Y = torch.randn(2, 4), torch.rand(2, 4)


class Net(nn.Module):
    def forward(self, x, more=None, scale=1.0, *, bias=None):
        y = x * scale
        y = y if more is None else y + more["a"] * more["b"][0]
        return {"y": y if bias is None else y + bias, "parts": (y * 2, x.shape[0]), "again": y}


CASES = {
    "keywords": ((), {"x": X, "bias": Y}, ["x", "bias"]),
    "positional and keywords": ((X,), {"bias": Y}, ["x", "bias"]),
    "nested": ((X, {"a": Y, "b": [X]}), {}, ["x", "more.a", "more.b.0"]),
    "numbers": ((X, None, 3.0), {}, ["x"]),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    args, kwargs, names = CASES[request.param]
    torch.export.save(torch.export.export(Net(), args, kwargs), tmp_path / "net.pt2")
    return torch.export.load(tmp_path / "net.pt2"), args, kwargs, names


def test_names_and_values(case, workdir):
    program, args, kwargs, names = case
    proto, record = export(program, None, workdir)
    assert inputs_of(proto) == names
    assert outputs_of(proto) == ["y", "parts.0", "again"]
    assert "output parts.1 is left out: it is no tensor but a int" in record.notes
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    assert_computes(proto, tensors, Net()(*args, **kwargs))


def test_pytorchs_own_outputs_for_feeds(case):
    program, args, kwargs, names = case
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    (found,) = run_module(program, None, [feed], ["y", "parts.0", "again"])
    wanted = Net()(*args, **kwargs)
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-6)
    np.testing.assert_allclose(found["parts.0"], wanted["parts"][0], rtol=1e-6)


class Average(nn.Module):
    """A running mean, of which the outputs depend on the old value; or on the new one alone."""

    def __init__(self, forget: bool):
        super().__init__()
        self.inner = nn.Module()
        self.inner.register_buffer("mean", torch.zeros(4))
        self.register_buffer("count", torch.zeros(1), persistent=False)
        self.forget = forget

    def forward(self, x):
        self.count += 1
        self.inner.mean.mul_(0.5) if not self.forget else self.inner.mean.zero_()
        self.inner.mean.add_(x.mean(0))
        return x - self.inner.mean


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's, of its own functional program
@pytest.mark.parametrize("functional", [False, True])
def test_state_is_refused_by_name(functional, workdir):
    program = torch.export.export(Average(forget=False).eval(), (X,))
    program = program.run_decompositions({}) if functional else program
    torch.export.save(program, workdir / "net.pt2")
    with pytest.raises(StageError, match="keeps state between calls") as caught:
        export(torch.export.load(workdir / "net.pt2"), None, workdir)
    assert " inner.mean (float32[4])" in caught.value.message
    assert "count" not in caught.value.message


def test_what_is_written_and_not_read_is_no_state(workdir):
    module = Average(forget=True).eval()
    proto, _ = export(torch.export.export(module, (X,)), None, workdir)
    assert_computes(proto, [Y], module(Y))
