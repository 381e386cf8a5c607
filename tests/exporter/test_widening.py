"""Modules in 16 bits become graphs in float32 with the interface and the values of the module."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from torch_exports import export  # noqa: E402

from trtpipe.backends.base import load_backend  # noqa: E402
from trtpipe.config.settings import Settings  # noqa: E402
from trtpipe.exporter.arrays import array_of, tensor_of  # noqa: E402

nn = torch.nn


class Mixed(nn.Module):
    """Autocast, a branch in another type, and constants."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm, self.dtype = nn.Linear(8, 8), nn.LayerNorm(8), dtype

    def forward(self, x):
        with torch.autocast("cpu", self.dtype):
            y = self.norm(self.layer(x))
        return y.to(self.dtype) + torch.full((8,), 0.5, dtype=self.dtype)


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


MODULES = {
    "half": (lambda: convolutions().half(), torch.randn(2, 3, 8, 8).half(), "float16"),
    "bfloat16": (lambda: convolutions().bfloat16(), torch.randn(2, 3, 8, 8).bfloat16(), "bfloat16"),
    "autocast": (lambda: Mixed(torch.bfloat16), torch.randn(2, 8), "bfloat16"),
    "autocast to half": (lambda: Mixed(torch.float16), torch.randn(2, 8), "float16"),
}


@pytest.mark.parametrize("name", MODULES)
def test_types_and_values(name, workdir):
    make, x, half = MODULES[name]
    module = make().eval()
    proto, record = export(module, (x,), workdir)
    with torch.no_grad():
        wanted = module(x)
    kinds = {form: onnx.TensorProto.DataType.Value(form.upper()) for form in ("float16", "bfloat16")}
    inside = {value.type.tensor_type.elem_type for value in proto.graph.value_info}
    constants = {tensor.data_type for tensor in proto.graph.initializer}
    assert not (inside | constants) & set(kinds.values())
    assert record.half is not None
    assert record.half.storage == half
    assert half in record.notes[-1]
    types = [str(each.dtype).removeprefix("torch.") for each in (x, wanted)]
    assert [spec.dtype for spec in (*record.contract.inputs, *record.contract.outputs)] == types
    with load_backend("onnxruntime").open(workdir / "model.onnx", Settings.in_child()) as runner:
        (found,) = runner.infer({runner.inputs[0].name: array_of(x)}).values()
    assert found.dtype.name == types[1]
    error = np.abs(found.astype(np.float64) - array_of(wanted).astype(np.float64)).max()
    assert error < 8 * record.half.rounding * np.abs(array_of(wanted).astype(np.float64)).max()
    precise = make().float()
    if isinstance(precise, nn.Sequential):  # a module in float32 with the same weights is closer than its 16-bit self
        with torch.no_grad():
            exact = make().eval().float()(x.float()).numpy()
        assert np.abs(found.astype(np.float64) - exact).max() <= 2 * record.half.rounding * np.abs(exact).max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.bool])
def test_tensors_and_arrays(dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    array = array_of(tensor.t())
    assert array.dtype.name == str(dtype).removeprefix("torch.")
    back = tensor_of(array)
    assert back.dtype == dtype
    assert torch.equal(back, tensor.t())


def test_float32_stays_as_it_is(workdir):
    _, record = export(convolutions(), (torch.randn(1, 3, 8, 8),), workdir)
    assert record.half is None
    assert record.notes == ()
