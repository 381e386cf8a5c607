"""Exports of real PyTorch modules, in this process."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from models import run, weights_of  # noqa: E402

from trtpipe.errors import InputError, StageError  # noqa: E402
from trtpipe.exporter.request import TorchRequest  # noqa: E402
from trtpipe.exporter.torch_export import export_module  # noqa: E402
from trtpipe.report.stage_records import ExportRecord  # noqa: E402

nn = torch.nn
BATCHES = ((1, 4), (2, 4), (8, 4))
PROFILE = {"x": {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}}


def request(workdir: Path, **options) -> TorchRequest:
    defaults = {"module": "", "function": "", "opset": 20, "shapes": {}, "input_names": (), "output_names": ()}
    return TorchRequest(workdir=str(workdir), **(defaults | options))


def export(module, examples, workdir: Path, **options) -> tuple[onnx.ModelProto, ExportRecord]:
    reply = export_module(module, examples, request(workdir, **options))
    assert reply.names[0] == "model.onnx"
    proto = onnx.load(workdir / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    return proto, ExportRecord.read(workdir / "model.onnx.json")


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
    """(module, exported graph, record, folder): examples have a batch of 1, which must not become a constant."""
    folder = tmp_path_factory.mktemp("network")
    module = Network()
    module.train()
    module.norm.eval()
    examples = (torch.randn(1, 3, 8, 8), torch.randn(1, 4))
    return module, *export(module, examples, folder, shapes=SHAPES), folder


class TestNetwork:
    def test_names_are_those_of_forward_and_of_the_dict(self, made):
        _, proto, record, _ = made
        assert [value.name for value in proto.graph.input] == ["image", "gain"]
        assert [value.name for value in proto.graph.output] == ["logits", "features"]
        assert record.exporter == f"torch {torch.__version__} (torch.export)"
        assert record.opset == 20

    def test_one_batch_for_both(self, made):
        _, _, record, _ = made
        assert [spec.shape for spec in record.contract.inputs] == [("batch", 3, 8, 8), ("batch", 4)]
        assert [spec.shape for spec in record.contract.outputs] == [("batch", 5), ("batch", 4)]

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

    def test_the_record_has_the_differences(self, made):
        _, proto, record, _ = made
        assert [difference.output for difference in record.parity] == ["logits", "features"]
        assert all(0 <= difference.mean_abs <= difference.max_abs < 1e-4 for difference in record.parity)
        assert record.weight_bytes == sum(weight.nbytes for weight in weights_of(proto).values())

    def test_nothing_of_this_machine_is_in_the_bytes(self, made):
        *_, folder = made
        for name in ("model.onnx", "model.onnx.json"):
            content = (folder / name).read_bytes()
            for trace in (str(folder), str(Path(__file__).parent), sys.prefix, "site-packages", 'File "', "%conv"):
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

        proto, record = export(Transformer(), (torch.ones(2, 4),), workdir)
        assert [value.name for value in proto.graph.output] == ["logits", "hidden"]
        assert [difference.output for difference in record.parity] == ["logits", "hidden"]


class TestExamples:
    def test_shapes_alone_are_enough_and_defaults_stay(self, workdir):
        class Scaled(Linear):
            def forward(self, x, scale=2.0):
                return self.layer(x) * scale

        proto, record = export(Scaled(), None, workdir, shapes={"x": BATCHES})
        assert [str(spec) for spec in record.contract.inputs] == ["x: float32[batchx4]"]
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
        proto, record = export(Embed(), examples, workdir, shapes=shapes)
        assert [spec.dtype for spec in record.contract.inputs] == ["int64", "bool"]
        assert [spec.shape for spec in record.contract.inputs] == [("batch", "ids_1")] * 2
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


@pytest.mark.parametrize("opset", [20, 23])
def test_attention_to_nothing_is_0_as_in_pytorch(workdir, opset):
    class Attend(nn.Module):
        def forward(self, x, seen):
            return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=seen)

    x, seen = torch.ones(1, 2, 3, 4), torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
    proto, _ = export(Attend(), (x, seen[None, None]), workdir, opset=opset)  # where it is compared on these
    (found,) = run(proto, {"x": x.numpy(), "seen": seen[None, None].numpy()}).values()
    assert found[0, 0, :, 0].tolist() == [1, 1, 0]


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

        with pytest.raises(StageError, match=r"draws random numbers.*aten\.randn \(test_torch_export\.py, line "):
            export(Noisy(), (torch.ones(2, 4),), workdir)


@pytest.mark.parametrize("fill", [-math.inf, math.nan, -1e9])
def test_what_fills_an_output_is_equal_and_hides_no_difference(workdir, fill):
    class Filled(Linear):
        def forward(self, x):
            return torch.where(x > 0, self.layer(x)[:, :1].expand_as(x), fill)

    class Chosen(Linear):
        """PyTorch's own choice of equal values is not onnxruntime's."""

        def forward(self, x):
            return torch.cat([x.topk(4).indices.float() / 100, torch.full((1, 1), fill)], 1)

    _, record = export(Filled(), (torch.tensor([[1.0, -1, 2, -2]]),), workdir)
    assert record.parity[0].max_abs < 1e-5
    with pytest.raises(StageError, match="differs from PyTorch"):
        export(Chosen(), (torch.ones(1, 200),), workdir)


def test_equal_values_that_a_top_k_chooses_from(workdir):
    """PyTorch takes some, onnxruntime the first ones."""

    class Best(Linear):
        def forward(self, x):
            return x.topk(4).indices.float()

    export(Best(), (torch.arange(200.0)[None],), workdir)
    with pytest.raises(StageError, match="differs from PyTorch") as caught:
        export(Best(), (torch.ones(1, 200),), workdir)
    assert "equal values" in caught.value.remedy


def test_an_exported_program(workdir, tmp_path):
    """What ``torch.export.save`` wrote keeps its own names and dimensions."""
    module = Linear().eval()
    dim = torch.export.Dim("n", min=1, max=8)
    program = torch.export.export(module, (torch.ones(2, 4),), dynamic_shapes=({0: dim},))
    proto, record = export(program, None, workdir, shapes={"x": BATCHES})
    assert [str(spec) for spec in record.contract.inputs] == ["x: float32[batchx4]"]
    assert record.parity == ()
    x = torch.randn(5, 4)
    np.testing.assert_allclose(run(proto, {"x": x.numpy()})["output"], module(x).detach(), rtol=1e-5)
    fixed = torch.export.export(module, (torch.ones(2, 4),))
    with pytest.raises(StageError, match="fixes it to 2"):
        export(fixed, None, workdir, shapes={"x": BATCHES})
