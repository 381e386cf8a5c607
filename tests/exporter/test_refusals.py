"""What torch cannot export is refused with its kind, the user's file and line, and what to do."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch_exports import assert_computes, export, outputs_of  # noqa: E402

from trtpipe.errors import StageError  # noqa: E402

nn = torch.nn
X = torch.randn(1, 4)


def line_of(module) -> str:
    """``file, line N`` of the line of forward that is marked."""
    import inspect

    lines, first = inspect.getsourcelines(type(module).forward)
    return f"test_refusals.py, line {first + next(i for i, line in enumerate(lines) if '# here' in line)}, in forward"


class Branch(nn.Module):
    def forward(self, x):
        if x.mean() > 0:  # here
            return x
        return -x


class Loop(nn.Module):
    def forward(self, x):
        left = x[0].argsort()
        while left.numel() > 0:  # here
            left = left[1:][x[0][left[1:]] > 0]
        return left


class Sliced(nn.Module):
    def forward(self, x):
        return x[:, : int(x.sum())]  # here


class Numpy(nn.Module):
    def forward(self, x):
        return x * torch.from_numpy(x.numpy() + 1)  # here


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        found, _ = self.rnn(packed)  # here
        return nn.utils.rnn.pad_packed_sequence(found, batch_first=True)[0]


class Factors(nn.Module):
    def forward(self, x):
        y = x.reshape(2, 2)
        return torch.linalg.svd(y)[1]  # here


class Complex(nn.Module):
    def forward(self, x):
        y = torch.complex(x, x)
        return torch.view_as_real(torch.cumsum(y, 1).tanh())  # here


CASES = {
    "branch": (Branch(), (X,), "data-dependent", "torch.where"),
    "loop": (Loop(), (X,), "data-dependent", "fixed number"),
    "slice": (Sliced(), (X,), "data-dependent", "mask"),
    "numpy": (Numpy(), (X,), "numpy", "operators of torch"),
    "packed": (Packed(), (torch.randn(2, 5, 4), torch.tensor([5, 3])), "packed sequence", "lengths"),
    "operator": (Factors(), (X,), "linalg_svd has no ONNX translation", "other operators"),
    "complex": (Complex(), (X,), "complex numbers", "real and imaginary"),
}


@pytest.mark.parametrize("name", CASES)
def test_kind_line_and_advice(name, workdir, capfd):
    module, examples, reason, advice = CASES[name]
    with pytest.raises(StageError, match=f"torch cannot export {type(module).__name__}: ") as caught:
        export(module, examples, workdir)
    assert reason in caught.value.message
    assert line_of(module) in caught.value.message
    assert advice in caught.value.remedy
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


def scripted_inside() -> nn.Module:
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = torch.jit.script(nn.Linear(4, 4))

        def forward(self, x):
            return self.part(x)

    return Holds()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: torch.jit.script(nn.Linear(4, 4)), "the module itself"),
        (lambda: torch.jit.trace(nn.Linear(4, 4), X), "the module itself"),
        (scripted_inside, "part"),
    ],
)
def test_torchscript(workdir, make, part):
    with pytest.raises(StageError, match=rf"TorchScript .*\(ScriptModule: {part}") as caught:
        export(make(), (X,), workdir)
    assert "nn.Module itself" in caught.value.remedy


@pytest.mark.filterwarnings("ignore")
class TestQuantized:
    def test_modules_in_quantization_aware_training(self, workdir):
        import torch.ao.quantization as tq

        module = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).train()
        module.qconfig = tq.get_default_qat_qconfig("fbgemm")
        with pytest.raises(StageError, match=r"FakeQuantize: .*activation_post_process") as caught:
            export(tq.prepare_qat(module), (X,), workdir)
        assert "--int8" in caught.value.remedy
        assert "load_state_dict" in caught.value.remedy

    def test_modules_converted_to_pytorchs_own_kernels(self, workdir):
        module = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
        with pytest.raises(StageError, match=r"quantized operators \(0") as caught:
            export(module, (X,), workdir)
        assert "float module" in caught.value.remedy


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", ["torch.compile", "DataParallel", "nothing"])
def test_compiled_and_wrapped_modules_are_exported_as_they_are_inside(workdir, wrap):
    class Compiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = torch.compile(nn.Linear(4, 4))
            self.other = nn.Linear(4, 4)
            self.other.compile()

        @torch.compile
        def forward(self, x):
            return self.other(self.part(x))

    module = Compiled()
    wrapped = {"torch.compile": torch.compile, "DataParallel": nn.DataParallel}.get(wrap, lambda same: same)(module)
    proto, _ = export(wrapped, (X,), workdir)
    assert {node.name.partition("/")[0] for node in proto.graph.node} == {"part", "other"}
    assert not any("_orig_mod" in tensor.name for tensor in proto.graph.initializer)
    assert_computes(proto, [X], module.other.forward(module.part._orig_mod(X)))


class TestTranslated:
    """What torch's own conversion refuses and an export needs not."""

    def test_attention_with_a_learned_bias_whose_gradient_is_on(self, workdir):
        class Biased(nn.Module):
            def __init__(self):
                super().__init__()
                self.bias = nn.Embedding(8, 2)
                self.register_buffer("distance", (torch.arange(6)[:, None] - torch.arange(6)).abs())

            def forward(self, x):
                bias = self.bias(self.distance).permute(2, 0, 1)[None]
                return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=bias)

        module, x = Biased(), torch.randn(1, 2, 6, 4)
        proto, _ = export(module, (x,), workdir)
        assert_computes(proto, [x], module(x))

    @pytest.mark.parametrize("shape", [(3, 5, 4), (2, 2, 3, 5, 4)])
    @pytest.mark.parametrize("mask", [None, "bool", "float", "causal"])
    def test_attention_over_other_axes(self, workdir, shape, mask):
        class Attention(nn.Module):
            def forward(self, x):
                seen = torch.ones(5, 5, dtype=torch.bool).tril(1)
                given = {None: None, "causal": None, "bool": seen, "float": seen.float()}[mask]
                return nn.functional.scaled_dot_product_attention(x, x, x, given, is_causal=mask == "causal", scale=0.7)

        x = torch.randn(shape)
        proto, _ = export(Attention(), (x,), workdir)
        assert_computes(proto, [x], Attention()(x))

    @pytest.mark.parametrize("zeros", ["zeros_like", "zeros"])
    def test_a_layer_in_fourier_space(self, workdir, zeros):
        class Fourier(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.weight = nn.Parameter(torch.randn(3, 3, 4, 2))

            def forward(self, x):
                f = torch.fft.rfft(x)
                g = torch.zeros_like(f) if zeros == "zeros_like" else torch.zeros(f.shape, dtype=f.dtype)
                g[:, :, :4] = torch.einsum("bix,iox->box", f[:, :, :4], torch.view_as_complex(self.weight))
                return torch.fft.irfft(g, n=x.shape[-1])

        module, x = Fourier(), torch.randn(1, 3, 16)
        proto, _ = export(module, (x,), workdir)
        assert outputs_of(proto) == ["output"]
        assert_computes(proto, [x], module(x), tolerance=1e-4)
